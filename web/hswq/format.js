// Numbers as people read them.

export function megabytes(bytes) {
    const value = bytes / 1e6;
    return `${value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 2 : 0 })} MB`;
}

export function percent(part, whole) {
    return `${((100 * part) / whole).toFixed(1)} %`;
}

export function duration(seconds) {
    const whole = Math.round(seconds);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
