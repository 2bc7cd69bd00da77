// The page's lists of files: what a node of ours has written is in them at once, as after the page's own *R*.

/** Renews the lists when a file was written that they do not have yet. */
export function renewLists(app, api) {
    const told = new Set();
    api.addEventListener("executed", ({ detail }) => {
        const path = detail?.output?.hswq_verdict?.[0]?.path;
        if (!path || told.has(path)) return; // a node that is taken from the cache says again what it wrote
        told.add(path);
        renew(app).catch(() => {}); // then R is left
    });
}

/** Older pages have no way that is silent. */
async function renew(app) {
    await (app.reloadNodeDefs ? app.reloadNodeDefs() : app.refreshComboInNodes?.());
}
