// Our nodes in the page's language, where the page has lost it: pages about as old as 1.32 read the translations of
// node packs first and their own language after, over them.

const WAITED = 3000; // milliseconds, at most, until the page has its language
const PROBE = "nodeDefs.HSWQQuantize.display_name";

/** Gives the page what the server knows of our nodes, before they are made. */
export async function keepTranslations(app, api) {
    const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
    const messages = messagesOfThePage();
    if (language === "en" || !messages) return;
    for (let waited = 0; messages.locale.value !== language && waited < WAITED; waited += 50) {
        await new Promise((done) => setTimeout(done, 50));
    }
    if (messages.te(PROBE, language)) return;
    const translated = await (await api.fetchApi("/i18n")).json();
    if (translated[language]) messages.mergeLocaleMessage(language, translated[language]);
}

/** What the page translates with: vue-i18n's composer, as its documentation calls it. */
function messagesOfThePage() {
    const page = document.getElementById("vue-app")?.__vue_app__;
    return page?._context?.provides?.[page.__VUE_I18N_SYMBOL__]?.global;
}
