// Right-click on a checkpoint's loader: the quick start's nodes are put below the workflow and connected to it.

import { around, TITLE, view } from "./layout.js";
import { say } from "./words.js";

const LOADER = "CheckpointLoaderSimple";
const GAP = 80;

/** What the page adds to a node's menu. */
export function menuOf(node, app, api) {
    if (node.comfyClass !== LOADER) return [];
    return [{ content: say("Quantize with HSWQ"), callback: () => quantizeBehind(node, app, api) }];
}

async function quantizeBehind(loader, app, api) {
    const pack = new URL(import.meta.url).pathname.split("/extensions/")[1].split("/")[0];
    const response = await api.fetchApi(`/workflow_templates/${pack}/hswq_sdxl.json`);
    const example = await response.json();
    const graph = loader.graph ?? app.graph;
    graph.beforeChange?.();
    const added = insert(example, loader, graph);
    graph.afterChange?.();
    const { clientWidth, clientHeight } = app.canvasEl;
    const boxes = added.map(({ pos, size }) => ({ x: pos[0], y: pos[1], width: size[0], height: size[1], title: TITLE }));
    Object.assign(app.canvas.ds, view(around(boxes), clientWidth, clientHeight));
    app.canvas.setDirty(true, true);
}

/** The example's nodes and groups, less its notes and its own loader, whose place the given one takes. */
function insert(example, loader, graph) {
    const lowest = Math.max(...graph._nodes.map((each) => each.pos[1] + each.size[1]));
    const boxes = example.groups.map(({ bounding }) => bounding);
    const left = loader.pos[0] - Math.min(...boxes.map(([x]) => x));
    const down = lowest + GAP - Math.min(...boxes.map(([, y]) => y));
    const nodes = new Map();
    for (const data of example.nodes) {
        if (data.type === "MarkdownNote") continue;
        nodes.set(data.id, data.type === LOADER ? loader : add(data, graph, left, down));
    }
    for (const [, from, output, to, input] of example.links) {
        const target = nodes.get(to);
        const { name } = example.nodes.find((each) => each.id === to).inputs[input];
        nodes.get(from).connect(output, target, target.findInputSlot(name));
    }
    for (const data of example.groups) {
        const group = new globalThis.LiteGraph.LGraphGroup(data.title);
        const [x, y, width, height] = data.bounding;
        group.configure({ ...data, bounding: [x + left, y + down, width, height] });
        graph.add(group);
    }
    return [...nodes.values()].filter((node) => node !== loader);
}

function add(data, graph, left, down) {
    const node = globalThis.LiteGraph.createNode(data.type);
    graph.add(node);
    node.configure({
        ...data,
        id: node.id,
        pos: [data.pos[0] + left, data.pos[1] + down],
        inputs: data.inputs.map((input) => ({ ...input, link: null })),
        outputs: data.outputs.map((output) => ({ ...output, links: [] })),
    });
    return node;
}
