// What our views say, in the page's language. English is the key; what has no translation stays English.

let language = "en";

/** Every sentence by language, by its English text. */
export const WORDS = {
    ja: {
        "more fields": "その他の項目",
        "fewer fields": "項目を減らす",
        "Once the model is calibrated, layers and sizes are shown here.": "モデルをキャリブレーションすると、ここに層とサイズが表示されます。",
        "Layers and sizes are shown here once their sensitivity is measured: when this node runs.": "感度を測ると、ここに層とサイズが表示されます(このノードの実行時に測ります)。",
        "Layers and sizes are shown here once their sensitivity is measured: connect the model, or run HSWQ Measure Sensitivity.": "感度を測ると、ここに層とサイズが表示されます。モデルを接続するか、HSWQ Measure Sensitivity を実行してください。",
        "{0}, {1} of the original; {2} of {3} layers kept": "{0}(元の {1})、{3} 層中 {2} 層を保持",
        "{0}, {1} of the original; {2} of {3} layers kept + {4} always": "{0}(元の {1})、{3} 層中 {2} 層を保持(+ 常に {4} 層)",
        "Drag: the share of layers that are kept": "ドラッグ: 保持する層の割合",
        "{0}, {1} of the original; predicted error {2}; {3}": "{0}(元の {1})、予測誤差 {2}、{3}",
        "Drag: the size of the file": "ドラッグ: ファイルのサイズ",
        "the model card's": "モデルカードの方式",
        "size, up to the original's; height: predicted error of the output, logarithmic": "横: サイズ(右端は元のファイル)。高さ: 出力の予測誤差(対数)",
        "kept in 16 bits": "16 ビットで保持",
        "in 8 bits": "8 ビット",
        "layers, the most sensitive on the left; height: sensitivity, logarithmic": "左ほど敏感な層。高さは感度(対数)",
        "written: {0}": "書き出しました: {0}",
        "image {0} of {1}, step {2} of {3}": "画像 {0}/{1}、ステップ {2}/{3}",
        "{0} left": "残り {0}",
        done: "完了",
        "cancelled; the finished runs are kept": "中止しました。完了した分は保存されています",
        "not added to the session: {0}": "セッションに追加されませんでした: {0}",
        "kept in memory: {0}": "メモリに保持しています: {0}",
        "the session holds {0} images": "セッションには画像 {0} 枚分があります",
        "measured steps by noise level: clean": "ノイズ量別の計測ステップ数: 少",
        "pure noise": "多",
        "{0} steps": "{0} ステップ",
        "measuring the sensitivity of the layers": "層の感度を計測中",
        "left: reference, right: candidate; {0}mean SSIM {1}, PSNR {2}": "左: 参照、右: 候補。{0}平均 SSIM {1}、PSNR {2}",
        "image {0} of {1} (click for the next), ": "画像 {0}/{1}(クリックで次へ)、",
        "{0} of weights": "重み {0}",
        "{0} layers in {1}, {2}": "{0} 層が {1}、{2}",
        "not quantized": "量子化なし",
        "convolutions": "畳み込み",
        "in fewer than 8 bits": "8 ビット未満",
        "of odd sizes": "サイズが合わない",
        "without integer products": "整数乗算のない環境",
        "in FP8, which this device does not multiply": "FP8(このデバイスでは乗算不可)",
        "{0} layers multiply in 8 bits": "{0} 層を 8 ビットで乗算",
        "{0}; exact: {1}": "{0}、正確に計算: {1}",
        "{0} in {1}": "{0} 層が {1}",
        "{0}, none quantized": "{0}、量子化なし",
        "predicted error {0}": "予測誤差 {0}",
        "from the connected path: {0}": "接続されたパスから: {0}",
        "there is no {0} file yet: write one with HSWQ Quantize": "{0} のファイルがまだありません。HSWQ Quantize で書き出してください",
    },
    zh: {
        "more fields": "更多选项",
        "fewer fields": "收起选项",
        "Once the model is calibrated, layers and sizes are shown here.": "模型校准后，此处显示各层和文件大小。",
        "Layers and sizes are shown here once their sensitivity is measured: when this node runs.": "测量灵敏度后，此处显示各层和文件大小(运行此节点时测量)。",
        "Layers and sizes are shown here once their sensitivity is measured: connect the model, or run HSWQ Measure Sensitivity.": "测量灵敏度后，此处显示各层和文件大小：请连接模型，或运行 HSWQ Measure Sensitivity。",
        "{0}, {1} of the original; {2} of {3} layers kept": "{0}，为原文件的 {1}；{3} 层中保留 {2} 层",
        "{0}, {1} of the original; {2} of {3} layers kept + {4} always": "{0}，为原文件的 {1}；{3} 层中保留 {2} 层(另有 {4} 层始终保留)",
        "Drag: the share of layers that are kept": "拖动：保留层的比例",
        "{0}, {1} of the original; predicted error {2}; {3}": "{0}，为原文件的 {1}；预测误差 {2}；{3}",
        "Drag: the size of the file": "拖动：文件大小",
        "the model card's": "模型卡的方法",
        "size, up to the original's; height: predicted error of the output, logarithmic": "横轴为大小(右端为原文件)；高度为输出的预测误差(对数)",
        "kept in 16 bits": "以 16 位保留",
        "in 8 bits": "8 位",
        "layers, the most sensitive on the left; height: sensitivity, logarithmic": "越靠左的层越敏感；高度为灵敏度(对数)",
        "written: {0}": "已写入：{0}",
        "image {0} of {1}, step {2} of {3}": "图像 {0}/{1}，步骤 {2}/{3}",
        "{0} left": "剩余 {0}",
        done: "完成",
        "cancelled; the finished runs are kept": "已取消；已完成的部分已保存",
        "not added to the session: {0}": "未加入会话：{0}",
        "kept in memory: {0}": "保留在内存中：{0}",
        "the session holds {0} images": "会话中有 {0} 张图像",
        "measured steps by noise level: clean": "按噪声水平统计的步数：少",
        "pure noise": "多",
        "{0} steps": "{0} 步",
        "measuring the sensitivity of the layers": "正在测量各层的灵敏度",
        "left: reference, right: candidate; {0}mean SSIM {1}, PSNR {2}": "左：参考，右：候选；{0}平均 SSIM {1}，PSNR {2}",
        "image {0} of {1} (click for the next), ": "图像 {0}/{1}(点击查看下一张)，",
        "{0} of weights": "权重 {0}",
        "{0} layers in {1}, {2}": "{0} 层为 {1}，{2}",
        "not quantized": "未量化",
        "convolutions": "卷积",
        "in fewer than 8 bits": "少于 8 位",
        "of odd sizes": "尺寸不符",
        "without integer products": "设备无整数乘法",
        "in FP8, which this device does not multiply": "FP8（此设备无法相乘）",
        "{0} layers multiply in 8 bits": "{0} 层以 8 位相乘",
        "{0}; exact: {1}": "{0}，精确计算：{1}",
        "{0} in {1}": "{0} 层为 {1}",
        "{0}, none quantized": "{0}，未量化",
        "predicted error {0}": "预测误差 {0}",
        "from the connected path: {0}": "来自已连接的路径：{0}",
        "there is no {0} file yet: write one with HSWQ Quantize": "还没有 {0} 文件：请用 HSWQ Quantize 写入一个",
    },
};

/** The page's language by its code, such as "ja" or "zh-TW". */
export function setLanguage(code) {
    language = String(code ?? "en").toLowerCase().split("-")[0];
}

export function currentLanguage() {
    return language;
}

/** A sentence in the page's language, with {0}, {1} ... filled in. */
export function say(english, ...values) {
    const sentence = WORDS[language]?.[english] ?? english;
    return sentence.replace(/\{(\d+)\}/g, (_, number) => values[number]);
}
