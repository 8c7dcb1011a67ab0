"""Names of people in Chinese text, which has no spaces and no capitals.

A name is a surname and one or two characters that names are made of. Whether it is one, the
likeliest reading of the whole stretch decides: words by their share in Chinese text against names
by the shares of surname and given name, helped by what stands beside a name (患者, 医师, 先生, 说).
`高血压` is read as a word, `高雪亚` as a name.
"""

import re
from collections.abc import Iterator
from functools import cache

from privacy.masking.chinese import lexicon
from privacy.masking.patterns import Place, Rules, pattern

_RUN = re.compile(r"[\u4e00-\u9fff〇]+")
# Log odds of a name at any place, and what its surroundings add.
_ANYWHERE, _CUE_BEFORE, _CUE_AFTER, _ROLE, _FIELD_BEGINS, _FIELD_FILLED = (
    -3.0,
    4.5,
    4.0,
    1.5,
    3.5,
    5.0,
)
# What makes a name less likely: a surname that mostly is a word of grammar, such a word at the end.
_GRAMMAR_FIRST, _GRAMMAR_LAST = -4.5, -4.0
_TITLED, _FAMILIAR, _SOMEBODY = 5.5, -2.5, 3.0
_UNKNOWN_CHARACTER, _UNKNOWN_GIVEN, _PLACE = -15.0, -11.0, -12.0
_SHORT, _LONG = -1.6, -0.3
_LONGEST_WORD = 4
_NEVER = -1e9
_MOST_REPEATED = 64
_FIELD_WORDS = frozenset("姓名 户名 签名 签字".split())

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
# A field of a form, which a name fills; and who speaks in a dialogue, where it rarely stands.
_FIELD = re.compile(
    r"(?:姓\s*名|签\s*[名字章]|者签[名字]|医师|护士|(?<!病)人|"
    r"记录者|报告者|审核者|家属|父亲|母亲|配偶|户主|户名|经理|柜员|主任|教授|署名|复核|审核|录入|术者|助手|主刀|"
    r"麻醉师|客户|专员|主管|专家|老师|本人|人员|儿子|女儿|丈夫|妻子|名)(?:签[名字])?[ :(/]{1,4}$"
)
_SPEAKER = re.compile(r"(?:患者|病人|医生|大夫|客服|客户|用户|坐席|[者人方])[ :(/]{1,3}$|@$")
# What follows a name.
_AFTER = frozenset(
    "先生 女士 小姐 太太 同志 医生 医师 大夫 主任 教授 护士 老师 经理 总经 行长 柜员 书记 主席 院长 院士 博士 律师 师傅 校长 董事 局长 部长 "
    "处长 科长 队长 教练 记者 同学 阿姨 叔叔 大爷 大妈 奶奶 爷爷 伯伯 哥哥 姐姐 导演 说 称 表示 指出 认为 告诉 介绍 诉 来电 致电 来行 来我 到我 前来 持 "
    "于 的 在 男 女 因 自述 主诉 入院 出院 签字 签名 申请 办理 名下 本人 年龄 性别 身份 电话 联系 手机 查房 会诊 主刀 执刀 陪同 代办 及其 夫妇 一家 等".split()
)
_TITLE = re.compile(
    r"先生|女士|小姐|太太|夫人|同志|医生|医师|大夫|副?主任|副?教授|护士|护师|老师|经理|行长|柜员|书记|院长|院士|博士|律师|师傅|校长|董事|局长|部长|处长|科长|"
    r"队长|教练|阿姨|叔叔|大爷|大妈|大娘|大姐|大哥|大叔|奶奶|爷爷|伯伯|老板|秘书|主管|专员|客户经理|[总工](?![\u4e00-\u9fff])|氏(?![\u4e00-\u9fff])"
)
_SOMEBODY_RE = re.compile(
    r"某{1,2}[甲乙丙丁]?(?![日年月种些时地处院市省县区公医])|[X×*＊○]{1,3}(?![X×*＊○A-Za-z0-9])"
)
# Surnames that mostly are words of grammar: names only where a cue or a title says so.
_GRAMMAR = frozenset(
    "连那和都但查祝时应解管平常满向于相严原明白因自由从与及为以并从元强信同随后前成须益干帅支能通达展巩麻"
)
# Last characters that rather begin the next word.
_NEXT_WORD = frozenset(
    "于在因的说和与是已曾为将被等及从向经行有无来去到自就也都又还要请入出住即现予给让叫年月日第某诉称"
)
# Surnames that 小 or 老 before them makes a name; with others it is a word too often (小叶, 小石).
_FAMILIAR_SURNAMES = frozenset(
    "王李张刘陈杨赵吴周徐孙朱胡郭何林罗郑梁宋唐韩邓冯曹彭曾肖董潘袁蔡蒋杜魏苏吕丁卢姚沈姜崔谭陆廖贾邹邱侯薛"
)
# Names of Uyghurs, Kazakhs, Mongols, Tibetans and foreigners, by the characters that write them.
_SOUNDS = (
    "阿艾爱安奥合杜则拜尕旦巴白班包保贝本比毕彼边别波伯勃博卜布查昌楚茨次达大代戴丹旦当道德登迪底蒂丁顿多厄恩尔伐法凡菲费芬夫弗福富噶盖甘干冈戈哥格葛根工贡古圭哈海汉豪赫亨洪胡华霍基及吉济加佳贾"
    "江杰金津卡凯坎康考柯科克肯孔库夸拉莱赖兰朗劳勒雷蕾黎里理丽利莉历立丽连列林琳隆卢鲁路伦罗洛马玛迈麦曼芒毛梅蒙米密敏明莫默姆木穆纳娜乃南内尼尼年宁牛努诺欧帕潘培佩彭皮平普奇齐其恰乔切钦琴"
    "青琼丘却热仁日荣茹瑞若萨塞赛桑瑟沙莎山绍舍申圣史舒斯松苏索塔泰坦汤唐陶特腾提铁廷图吐托瓦万旺威韦维伟魏温文沃乌吾伍武西希锡夏肖谢辛欣休逊旭雅亚延扬杨耶叶伊依易因英尤于余约扎泽赞曾詹哲珍芝只治朱卓孜兹子宗佐古丽热娅孜木江提汗别克买依布都力夏衣提居麦吾沙帕姑"
)
_DOTTED = re.compile(rf"[{_SOUNDS}]{{1,8}}(?:[·•‧・∙⋅][{_SOUNDS}]{{1,9}}){{1,4}}")


class _Model:
    """The lists, looked up once."""

    def __init__(self) -> None:
        places = (lexicon.short_name(name) for name in lexicon.read_places()["prefecture"])
        self.words = dict.fromkeys(places, _PLACE) | lexicon.read_words()
        self.surnames = lexicon.read_surnames()
        given = lexicon.read_given()
        self.alone, self.first, self.second = given["alone"], given["first"], given["second"]
        self.familiar = frozenset(
            prefix + surname for prefix in "小老阿" for surname in _FAMILIAR_SURNAMES
        )
        self.begins = frozenset(name[0] for name in self.surnames) | frozenset("小老阿")


@cache
def _model() -> _Model:
    return _Model()


def find_names(text: str) -> Iterator[Place]:
    """Every stretch that reads best as a name, and what else bears the same full name."""
    found = [place for run in _RUN.finditer(text) for place in _names_in(text, *run.span())]
    yield from found
    # Who is named in full once is meant wherever the same characters stand.
    words = _model().words
    full = dict.fromkeys(
        text[start:end] for start, end in found if end - start > 1 and text[start:end] not in words
    )
    known = set(found)
    for name in list(full)[:_MOST_REPEATED]:
        start = text.find(name)
        while start >= 0:
            if (start, start + len(name)) not in known:
                yield start, start + len(name)
            start = text.find(name, start + len(name))
    for dotted in _DOTTED.finditer(text):
        yield dotted.span()


def _names_in(text: str, begin: int, end: int) -> list[Place]:
    model = _model()
    run = text[begin:end]
    if model.begins.isdisjoint(run):
        return []
    candidates = _likely(model, text, begin, run)
    return [(begin + start, begin + stop) for start, stop in _read(model.words, run, candidates)]


def _likely(model: _Model, text: str, begin: int, run: str) -> dict[int, list[tuple[int, float]]]:
    """By their start, the names that score more than the same characters one by one.

    The others stand in no best reading, whatever is around them.
    """
    words = model.words
    likely: dict[int, list[tuple[int, float]]] = {}
    for start, character in enumerate(run):
        if character in model.begins:
            for stop, score in _candidates(model, text, begin, run, start):
                apart = sum(words.get(one, _UNKNOWN_CHARACTER) for one in run[start:stop])
                if score > apart and score > words.get(run[start:stop], _NEVER):
                    likely.setdefault(start, []).append((stop, score))
    return likely


def _read(
    words: dict[str, float], run: str, names: dict[int, list[tuple[int, float]]]
) -> list[Place]:
    """The names in the best reading of `run`."""
    if not names:
        return []
    length = len(run)
    # Best score of a reading that ends at each place, where its last piece begins, and where the
    # name in that piece ends (0: a word). A name may end behind the run, as 王×× does.
    best = [0.0] + [_NEVER] * length
    back = [(0, 0)] * (length + 1)
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
        for stop, score in names.get(start, ()):
            if so_far + score > best[min(stop, length)]:
                best[min(stop, length)] = so_far + score
                back[min(stop, length)] = (start, stop)
    found = []
    place = length
    while place:
        start, stop = back[place]
        if stop:
            found.append((start, stop))
        place = start
    return found[::-1]


def _candidates(
    model: _Model, text: str, begin: int, run: str, start: int
) -> Iterator[tuple[int, float]]:
    """Names that may begin at `start`: where each ends, and its score."""
    told, field = _before(text, begin, run, start)
    for size in (1, 2):
        surname = run[start : start + size]
        share = model.surnames.get(surname)
        if share is None or len(surname) < size:
            continue
        grammar = surname in _GRAMMAR
        here = (
            _ANYWHERE
            + share
            + (min(told, _ROLE) + _GRAMMAR_FIRST if grammar and not field else told)
        )
        stop = start + size
        if somebody := _SOMEBODY_RE.match(text, begin + stop):
            if not grammar:
                yield somebody.end() - begin, here + _SOMEBODY
            continue
        if _TITLE.match(text, begin + stop):
            if not grammar or start == 0:
                yield stop, here + _TITLED
            continue
        for end, given in _given(model, run, stop):
            score = here + given + _after(text, begin + end)
            if field and (end == len(run) or text[begin + end : begin + end + 2] in _AFTER):
                score += _FIELD_FILLED
            if run[end - 1] in _NEXT_WORD:
                score += _GRAMMAR_LAST
            yield end, score
    if run[start : start + 2] in model.familiar:
        score = _ANYWHERE + model.surnames[run[start + 1]] + _FAMILIAR + told
        yield start + 2, score + _after(text, begin + start + 2)


def _given(model: _Model, run: str, place: int) -> Iterator[tuple[int, float]]:
    """Where a given name that begins at `place` may end, and its score."""
    if place < len(run):
        yield place + 1, _SHORT + model.alone.get(run[place], _UNKNOWN_GIVEN)
    if place + 1 < len(run):
        first = model.first.get(run[place], _UNKNOWN_GIVEN)
        yield place + 2, _LONG + first + model.second.get(run[place + 1], _UNKNOWN_GIVEN)


def _before(text: str, begin: int, run: str, start: int) -> tuple[float, bool]:
    """What stands before a name says for it, and whether that is a field of a form."""
    if start == 0:
        before = text[max(0, begin - 16) : begin]
        if _FIELD.search(before):
            return _FIELD_BEGINS, True
        return (_ROLE if _SPEAKER.search(before) else 0.5), False
    for size in (4, 3, 2):
        if start >= size and run[start - size : start] in _BEFORE:
            # 姓名王小明: a form without a colon.
            return _CUE_BEFORE, run[start - size : start] in _FIELD_WORDS
    return (_ROLE if run[start - 1] in _BEFORE else 0.0), False


def _after(text: str, stop: int) -> float:
    if stop >= len(text) or not "\u4e00" <= text[stop] <= "\u9fff":
        return 0.5
    if text[stop : stop + 2] in _AFTER:
        return _CUE_AFTER
    return _ROLE if text[stop] in _AFTER else 0.0


RULES: Rules = {
    "PERSON": (
        (0.6, find_names),
        (
            0.6,
            pattern(r"(?:我|他|她|您|本人|免贵|贵)姓(?P<value>[\u4e00-\u9fff])(?![名氏什啥么何])"),
        ),
    ),
}
