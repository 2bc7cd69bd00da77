// What the server says in whole sentences, warnings and notes, in the page's language.

import { currentLanguage } from "./words.js";

/** Sentences by their English form, as the server fills it in. What fills it is translated as well where it is known. */
export const MESSAGES = {
    ja: {
        "the calibration has only 1 image; 32 are recommended": "キャリブレーション画像が 1 枚だけです。32 枚を推奨します",
        "the calibration has only {0} images; 32 are recommended": "キャリブレーション画像が {0} 枚だけです。32 枚を推奨します",
        "1 run was left out: {0}": "1 回分が除外されました: {0}",
        "{0} runs were left out: {1}": "{0} 回分が除外されました: {1}",
        "these noise levels were not calibrated: {0}; {1}": "次のノイズ量が未計測です: {0}。{1}",
        "sample with more steps": "ステップ数を増やしてサンプリングしてください",
        "sample with full denoise and 20 steps or more": "denoise 1.0、20 ステップ以上でサンプリングしてください",
        "{0} with {1} % of the weights never ran where it could be measured, such as {2}, and will not be quantized; with --fast, newer versions compute layers past their modules":
            "{0}(重みの {1} %)は計測できる形で実行されず、量子化されません(例: {2})。新しい ComfyUI の --fast は層のモジュールを通らずに計算します",
        "1 layer": "1 層",
        "{0} layers": "{0} 層",
        "layer {0} was rounded to nearest: {1}": "層 {0} は最近値に丸めました: {1}",
        "Passed: {0}.": "合格: {0}。",
        "Failed: {0}.": "不合格: {0}。",
    },
    zh: {
        "the calibration has only 1 image; 32 are recommended": "校准只有 1 张图像；建议 32 张",
        "the calibration has only {0} images; 32 are recommended": "校准只有 {0} 张图像；建议 32 张",
        "1 run was left out: {0}": "有 1 次未计入：{0}",
        "{0} runs were left out: {1}": "有 {0} 次未计入：{1}",
        "these noise levels were not calibrated: {0}; {1}": "以下噪声水平未校准：{0}；{1}",
        "sample with more steps": "请用更多步数采样",
        "sample with full denoise and 20 steps or more": "请用 denoise 1.0、20 步以上采样",
        "{0} with {1} % of the weights never ran where it could be measured, such as {2}, and will not be quantized; with --fast, newer versions compute layers past their modules":
            "{0}(占权重的 {1} %)从未以可测量的方式运行，例如 {2}，因此不会量化；较新的 ComfyUI 使用 --fast 时不经模块计算这些层",
        "1 layer": "1 层",
        "{0} layers": "{0} 层",
        "layer {0} was rounded to nearest: {1}": "层 {0} 已舍入到最近值：{1}",
        "Passed: {0}.": "通过：{0}。",
        "Failed: {0}.": "未通过：{0}。",
    },
};

/** A server's sentence in the page's language; one that is not known stays as it is. */
export function fromServer(text) {
    for (const [english, translated] of Object.entries(MESSAGES[currentLanguage()] ?? {})) {
        const found = patternOf(english).exec(text);
        if (found) return translated.replace(/\{(\d+)\}/g, (_, number) => fromServer(found[Number(number) + 1]));
    }
    return text;
}

/** Its {0}, {1} ... stand for anything, in this order. */
function patternOf(english) {
    const fixed = english.split(/\{\d+\}/).map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    return new RegExp(`^${fixed.join("(.+?)")}$`, "s");
}
