"""Names of people in Chinese text, which has no spaces and no capitals.

A name is a surname and one or two characters that names are made of. Whether it is one, the
likeliest reading of the whole stretch decides: words by their share in Chinese text against names
by the shares of surname and given name, helped by what stands beside a name (患者, 医师, 先生, 说).
`高血压` is read as a word, `高雪亚` as a name.
"""

import re
from collections.abc import Iterator

from privacy.masking.chinese import lexicon
from privacy.masking.patterns import Place, Rules

_RUN = re.compile(r"[\u4e00-\u9fff〇]+")
# Log odds of a name at any place, and what a neighbour adds.
_ANYWHERE, _CUE_BEFORE, _FIELD_BEFORE, _CUE_AFTER = -8.0, 4.5, 8.0, 4.0
_UNKNOWN_CHARACTER, _UNKNOWN_GIVEN = -15.0, -11.0
_SHORT, _LONG = -1.6, -0.3
_LONGEST_WORD = 4

# What a name follows: who somebody is, what is done to or by them.
_BEFORE = frozenset(
    "患者 病人 患儿 病员 产妇 孕妇 姓名 医师 医生 大夫 护士 主任 教授 院长 护士长 药师 技师 住院医 主治医 "
    "家属 家长 其子 其女 其妻 其夫 其父 其母 其兄 其弟 其姐 其妹 长子 次子 长女 次女 儿子 女儿 丈夫 妻子 父亲 母亲 爷爷 奶奶 "
    "哥哥 弟弟 姐姐 妹妹 儿媳 女婿 孙子 孙女 外甥 侄子 配偶 爱人 老公 老婆 监护人 联系人 陪护 陪同 保姆 邻居 同事 朋友 同学 "
    "经办人 经办 经理 柜员 行长 客户 户名 申请人 借款人 担保人 保证人 共同借款人 被保险人 投保人 受益人 持卡人 收款人 付款人 汇款人 "
    "开户人 法人 代表人 代表 法定代表人 负责人 经手人 审批人 复核 复核人 录入 审核人 签名 签字 记录者 报告者 操作者 术者 助手 主刀 "
    "麻醉师 会诊 送检 委托人 代理人 律师 原告 被告 先生 女士 同志 老师 专家 队长 董事长 总裁 总经理 书记 市长 省长 主席 部长 "
    "局长 处长 科长 院士 博士 记者 演员 导演 歌手 作家 教练 名叫 叫做 本人 陈述者 病史陈述者 患方 家住 转给 转账给 汇给 联系 通知 请 由 经 向 与 和 及 找 问 给 对 叫 "
    "遵 按 随访 电话随访 回访 致电".split()
)
# One character before a name that says less.
_FIELD = re.compile(
    r"(?:姓\s*名|签\s*[名字]|医师|医生|护士|人|者|家属|父亲|母亲|配偶|户主?名|经理|柜员|主任|教授|署名|复核|审核|录入|术者|助手|主刀|客户|"
    r"与患者关系|联系方式|法人代表|代表|专员|主管|客服|专家|老师|先生|女士|名)\s*[:：(（/]\s*$|[@]$"
)
# What follows a name.
_AFTER = frozenset(
    "先生 女士 小姐 太太 同志 医生 医师 大夫 主任 教授 护士 老师 经理 总经 行长 柜员 书记 主席 院长 院士 博士 律师 师傅 校长 董事 局长 部长 "
    "处长 科长 队长 教练 记者 同学 阿姨 叔叔 大爷 大妈 奶奶 爷爷 伯伯 哥哥 姐姐 导演 说 称 表示 指出 认为 告诉 介绍 诉 来电 致电 来行 来我 到我 前来 持 "
    "于 的 在 男 女 因 自述 主诉 入院 出院 签字 签名 申请 办理 名下 本人 年龄 性别 身份 电话 联系 手机 查房 会诊 主刀 执刀 陪同 代办 及其 夫妇 一家 等".split()
)
_TITLE = re.compile(
    r"(?:先生|女士|小姐|太太|夫人|同志|医生|医师|大夫|主任|副?教授|护士长?|护师|老师|经理|行长|柜员|书记|院长|院士|博士|律师|师傅|校长|董事长?|总(?=[，。、；的说好您]|$)|局长|部长|处长|科长|"
    r"队长|教练|阿姨|叔叔|大爷|大妈|大娘|大姐|大哥|大叔|奶奶|爷爷|伯伯|老板|秘书|主管|专员|工(?=[，。、；的说好您]|$)|氏|女(?=[，,]|$)|姓)"
)
_SOMEBODY = re.compile(r"某{1,2}[\u4e00-\u9fff]?(?<=某)|[某XＸx×*＊○〇]{1,3}")
# Surnames that a title or 小, 老 before them makes a name; the others are other words too often.
_FAMILIAR_NO = frozenset("高白石水金龙时常方文安明成史和平于向任马黄")


class _Model:
    """The lists, looked up once."""

    def __init__(self) -> None:
        self.words = lexicon.read_words()
        self.surnames = lexicon.read_surnames()
        given = lexicon.read_given()
        self.alone, self.first, self.second = given["alone"], given["first"], given["second"]
        self.begins = frozenset(name[0] for name in self.surnames) | {"小", "老", "阿"}


_models: list[_Model] = []


def _model() -> _Model:
    if not _models:
        _models.append(_Model())
    return _models[0]


def find_names(text: str) -> Iterator[Place]:
    """Every stretch that reads best as a name."""
    for run in _RUN.finditer(text):
        yield from _names_in(text, *run.span())


def _names_in(text: str, begin: int, end: int) -> Iterator[Place]:
    model = _model()
    run = text[begin:end]
    if model.begins.isdisjoint(run):
        return
    length = len(run)
    # Best score of a reading that ends at each place, where its last piece begins, and whether
    # that piece is a name.
    best = [0.0] + [-1e9] * length
    back = [(0, 0)] * (length + 1)
    words = model.words
    for start in range(length):
        so_far = best[start]
        for stop in range(start + 1, min(start + _LONGEST_WORD, length) + 1):
            score = words.get(run[start:stop])
            if score is None:
                if stop > start + 1:
                    continue
                score = _UNKNOWN_CHARACTER
            if so_far + score > best[stop]:
                best[stop] = so_far + score
                back[stop] = (start, 0)
        if run[start] in model.begins:
            for stop, name_end, score in _candidates(model, text, begin, run, start):
                if so_far + score > best[stop]:
                    best[stop] = so_far + score
                    back[stop] = (start, name_end)
    place = length
    while place:
        start, name_end = back[place]
        if name_end:
            yield begin + start, begin + name_end
        place = start


def _candidates(
    model: _Model, text: str, begin: int, run: str, start: int
) -> Iterator[tuple[int, int, float]]:
    """Names that may begin at `start`: where the piece ends, where the name ends, score."""
    here = _ANYWHERE + _before(text, begin, run, start)
    for size in (1, 2):
        surname = run[start : start + size]
        if len(surname) < size or surname not in model.surnames:
            continue
        score = here + model.surnames[surname]
        given = start + size
        for stop, given_score in _given(model, run, given):
            yield stop, stop, score + given_score + _after(text, begin + stop)


def _given(model: _Model, run: str, given: int) -> Iterator[tuple[int, float]]:
    if given < len(run):
        yield given + 1, _SHORT + model.alone.get(run[given], _UNKNOWN_GIVEN)
    if given + 1 < len(run):
        first = model.first.get(run[given], _UNKNOWN_GIVEN)
        yield given + 2, _LONG + first + model.second.get(run[given + 1], _UNKNOWN_GIVEN)


def _before(text: str, begin: int, run: str, start: int) -> float:
    if start == 0:
        return _FIELD_BEFORE if _FIELD.search(text[max(0, begin - 12) : begin]) else 0.5
    for size in (4, 3, 2, 1):
        if run[max(0, start - size) : start] in _BEFORE and start >= size:
            return _CUE_BEFORE if size > 1 else 1.5
    return 0.0


def _after(text: str, stop: int) -> float:
    if stop >= len(text) or not "\u4e00" <= text[stop] <= "\u9fff":
        return 0.5
    if text[stop : stop + 2] in _AFTER:
        return _CUE_AFTER
    return 1.0 if text[stop] in _AFTER else 0.0


RULES: Rules = {"PERSON": ((0.6, find_names),)}
