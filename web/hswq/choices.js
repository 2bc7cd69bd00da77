// The values of our fields in the page's language. What a workflow holds, and what is sent, stays as it is.

import { currentLanguage } from "./words.js";

/** By language and field, what is said beside a value, which documents and messages name. */
export const CHOICES = {
    ja: {
        recipe: {
            "best quality": "最高品質",
            "smallest good": "良質で最小",
            "for everyone": "どのローダーでも",
            fast: "高速",
            "HSWQ model card": "モデルカード",
            custom: "自由に設定",
        },
        source: { "(the calibrated model)": "キャリブレーションしたモデル" },
        selection: { variance: "分散", error: "誤差", measured: "実測" },
        rounding: { nearest: "最近値", calibrated: "校正" },
        scales: { tensor: "層ごと", channel: "チャンネルごと" },
        part: { unet: "拡散モデル", text_encoders: "テキストエンコーダー", all: "両方" },
        method: { gradient: "勾配", exact: "一層ずつ" },
        compute: { exact: "正確", fast: "高速" },
        reading: { auto: "自動", memory: "メモリに読む", mapped: "マップ" },
    },
    zh: {
        recipe: {
            "best quality": "最佳质量",
            "smallest good": "优质且最小",
            "for everyone": "任何加载器",
            fast: "快速",
            "HSWQ model card": "模型卡",
            custom: "自定义",
        },
        source: { "(the calibrated model)": "已校准的模型" },
        selection: { variance: "方差", error: "误差", measured: "实测" },
        rounding: { nearest: "最近值", calibrated: "校准" },
        scales: { tensor: "每层", channel: "每通道" },
        part: { unet: "扩散模型", text_encoders: "文本编码器", all: "两者" },
        method: { gradient: "梯度", exact: "逐层" },
        compute: { exact: "精确", fast: "快速" },
        reading: { auto: "自动", memory: "读入内存", mapped: "映射" },
    },
};

/** Lets the choices of a node's fields be read in the page's language. */
export function labelChoices(node) {
    for (const [name, words] of Object.entries(CHOICES[currentLanguage()] ?? {})) {
        const widget = node.widgets?.find((each) => each.name === name && each.type === "combo");
        if (!widget) continue;
        widget.options.getOptionLabel = (value) => labelOf(words, value ?? widget.value);
    }
}

export function labelOf(words, value) {
    if (!words[value]) return String(value);
    return String(value).startsWith("(") ? `(${words[value]})` : `${words[value]} (${value})`;
}
