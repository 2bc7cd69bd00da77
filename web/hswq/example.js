// An example workflow that was just opened: whole in view, nothing on top of another, in the page's language.

import { around, below, spread, TITLE, topOf, view } from "./layout.js";
import { currentLanguage } from "./words.js";

// A page measures its nodes some time after it shows them: they are looked at until they stay as high as they are.
const LOOK = 250; // milliseconds from look to look
const QUIET = 3; // looks in a row that find the same
const MOST = 20; // looks

export async function openExample(app) {
    const graph = app.graph;
    if (!graph?.extra?.hswq_example) return;
    delete graph.extra.hswq_example; // what the user makes of it is arranged by the user
    await translate(graph);
    if (isLight()) for (const group of graph._groups) darken(group);
    arrange(app, graph._nodes, graph._groups);
}

async function translate(graph) {
    if (currentLanguage() === "en") return;
    const address = new URL(`./examples.${currentLanguage()}.json`, import.meta.url);
    const response = await fetch(address);
    if (!response.ok) return;
    const words = await response.json();
    for (const group of graph._groups) group.title = words[group.title] ?? group.title;
    for (const node of graph._nodes) {
        node.title = words[node.title] ?? node.title;
        const text = node.type === "MarkdownNote" ? node.widgets?.[0] : null;
        if (text) text.value = words[text.value] ?? text.value;
    }
}

/** Titles of groups have the groups' colour: bright ones cannot be read on a bright page. */
function isLight() {
    return brightness(getComputedStyle(document.body).color.match(/\d+/g).map(Number)) < 128; // the page's text is dark
}

/** Newer pages brighten the titles of groups that are darker than they like. */
function darken(group) {
    const allowed = 1 + (group.constructor.darkBgLuminanceThreshold ?? 30);
    const channels = group.color.match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
    const share = Math.min(1, allowed / brightness(channels));
    group.color = `#${channels.map((channel) => Math.ceil(channel * share).toString(16).padStart(2, "0")).join("")}`;
}

function brightness([red, green, blue]) {
    return 0.299 * red + 0.587 * green + 0.114 * blue;
}

/** Move nodes apart and fit groups to them, once the page knows how large nodes are, and show all of it. */
export async function arrange(app, given, groups) {
    await settled(given);
    const nodes = given.map((node) => ({ node, ...box(node) }));
    const members = groups.map((group) => nodes.filter((each) => inside(each, group)));
    const notes = nodes.filter(({ node }) => node.type === "MarkdownNote");
    const others = nodes.filter(({ node }) => node.type !== "MarkdownNote");
    groups.forEach((group, number) => (group.pos = [group.pos[0], topOf(box(group, 0), members[number])]));
    const lower = below(notes, [...others, ...groups.map((group) => box(group, 0))]);
    for (const each of others) each.y += lower;
    for (const group of groups) group.pos = [group.pos[0], group.pos[1] + lower];
    for (const each of spread(others)) {
        if (each.y !== each.node.pos[1]) moveTo(each.node, each.x, each.y, app.canvas);
    }
    const bottom = Math.max(...members.flat().map((each) => each.y + each.height), 0);
    groups.forEach((group, number) => {
        if (members[number].length) group.size = [group.size[0], bottom + 20 - group.pos[1]];
    });
    const boxes = [...nodes, ...groups.map((group) => box(group, 0))];
    const { scale, offset } = view(around(boxes), app.canvasEl.clientWidth, app.canvasEl.clientHeight);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = offset;
    app.canvas.setDirty(true, true);
}

function moveTo(node, x, y, canvas) {
    node.pos = [x, y];
    canvas.initLayoutMutations?.().moveNode(node.id, { x, y }); // older pages tell an element only so
}

async function settled(nodes) {
    let [before, quiet] = ["", 0];
    for (let look = 0; look < MOST && quiet < QUIET; look++) {
        await new Promise((resolve) => setTimeout(resolve, LOOK));
        const found = nodes.map(heightOf).join();
        quiet = found === before ? quiet + 1 : 0;
        before = found;
    }
}

function box(item, title = TITLE) {
    return { x: item.pos[0], y: item.pos[1], width: item.size[0], height: heightOf(item), title };
}

/** Where the page draws nodes as elements, what a node says of its size may be older than what is seen, or newer. */
function heightOf(item) {
    const element = item.type && document.querySelector(`[data-node-id="${item.id}"]`);
    return Math.max(element ? element.offsetHeight - TITLE : 0, item.size[1]);
}

function inside(each, group) {
    const [x, y] = group.pos;
    return each.x >= x && each.y >= y && each.x < x + group.size[0] && each.y < y + group.size[1];
}
