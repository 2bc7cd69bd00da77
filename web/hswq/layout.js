// Where nodes and groups go so that none lies on another, and what of the canvas is shown. Pure geometry.

const GAP = 24;
export const TITLE = 30;
const GROUP_TITLE = 38;

/** Heights differ between the page's renderers: nodes of one column are moved down until none overlaps. */
export function spread(nodes) {
    const columns = new Map();
    for (const node of nodes) {
        const column = [...columns.keys()].find((x) => Math.abs(x - node.x) < 60) ?? node.x;
        columns.set(column, [...(columns.get(column) ?? []), node]);
    }
    for (const column of columns.values()) {
        column.sort((a, b) => a.y - b.y);
        for (let number = 1; number < column.length; number++) {
            const above = column[number - 1];
            column[number].y = Math.max(column[number].y, above.y + above.height + TITLE + GAP);
        }
    }
    return nodes;
}

/** Where a group begins so that its title stands above the titles of its nodes, which some pages draw over it. */
export function topOf(group, members) {
    return Math.min(group.y, ...members.map((node) => node.y - TITLE - GROUP_TITLE));
}

/** How much everything has to move down to begin below the notes at the top, however high their text makes them. */
export function below(notes, others) {
    const bottom = Math.max(...notes.map((note) => note.y + note.height));
    const top = Math.min(...others.map((box) => box.y - (box.title ?? 0)));
    return Math.max(0, bottom + GAP - top) || 0;
}

/** The box around boxes of x, y, width, height; a node's title stands above it. */
export function around(boxes) {
    const left = Math.min(...boxes.map((box) => box.x));
    const top = Math.min(...boxes.map((box) => box.y - (box.title ?? 0)));
    const right = Math.max(...boxes.map((box) => box.x + box.width));
    const bottom = Math.max(...boxes.map((box) => box.y + box.height));
    return { x: left, y: top, width: right - left, height: bottom - top };
}

/** Scale and offset of a canvas that show a box between the page's own bars. */
export function view(box, width, height) {
    const room = { left: 80, top: 140, right: 40, bottom: 90 };
    const across = (width - room.left - room.right) / box.width;
    const down = (height - room.top - room.bottom) / box.height;
    const scale = Math.max(0.1, Math.min(across, down, 1));
    return { scale, offset: [room.left / scale - box.x, room.top / scale - box.y] };
}
