"""Places in Chinese text: cities, counties and districts by name, addresses by their parts.

An address runs from the large to the small without a space: 浙江省杭州市西湖区文三路12号3幢2单元501室.
It is found from a place that the list knows, from a street with a number, or from a cue (家住, 地址),
and followed part by part to its end. A province alone stays: it is no smaller than a state.
"""

import re
from collections.abc import Iterator
from functools import cache

from privacy.masking.chinese import lexicon
from privacy.masking.patterns import Place, Rules, pattern

_HAN = r"\u4e00-\u9fff"
# What cannot stand inside a place's name: the words around it.
_PART = r"[\u4e00-\u9fff](?<![在于住到至的了和与及为从往去自是由因被把向对给将已曾并而且或若如等有无者址，。])"
_ADMINISTRATIVE = (
    r"自治区|特别行政区|自治州|自治县|自治旗|地区|新区|开发区|高新区|工业园区?|产业园|街道办?事?处?|社区|居委会|村委会|行政村|自然村|新村|林场|农场|"
    r"省|市|县|区|旗|盟|镇|乡|苏木|村|庄|屯|寨|街道"
)
_STREET = r"大道|大街|公路|胡同|路|街|巷|弄"
_ESTATE = (
    r"小区|花园|家园|花苑|花城|花都|公寓|大厦|广场|新城|新苑|家属院|宿舍|公馆|豪庭|名苑|名城|国际城|雅苑|嘉园|嘉苑|佳苑|佳园|山庄|大楼|写字楼|"
    r"苑|府|湾|庭|城|园|坊|居|轩|阁"
)
_COUNT = r"[0-9A-Za-z一二三四五六七八九十百零〇甲乙丙丁东南西北附#之\-]{1,10}"
_UNIT = (
    r"号院|号楼|号|栋|幢|座|单元|室|楼|层|弄|巷|组|队|社|户|门|村民小组|街坊|区|期|房|支弄|排|库"
)
_NUMBERED = rf"第?{_COUNT}(?:{_UNIT})"
_CHAIN = re.compile(
    rf"(?:(?:{_PART}){{1,8}}?(?:{_ADMINISTRATIVE}|{_STREET})(?![院科期管员长民场值盈净况售价])|"
    rf"(?:{_PART}){{1,8}}?(?:{_ESTATE}|{_STREET}|里|道|条|桥|浜|庄|村)[(]?(?={_NUMBERED})|"
    rf"(?:{_PART}){{2,6}}?(?:小区|花园|家园|公寓|大厦|新村|花苑|广场|家属院|宿舍)|"
    rf"(?:东|南|西|北|中|前|后)[侧面段路街门区口](?![皮])|"
    rf"{_NUMBERED}[) ]?|[ ,，]?(?=(?:{_PART}){{2,6}}?(?:路|街|村|小区|镇|乡|区|县)))"
)
_ROOM = re.compile(r"[ \-]?[0-9]{2,4}[A-Z]?(?:-[0-9]{1,4})?(?![0-9.年月日号:])")
_POSTCODE = re.compile(r"[ ,;(（]{1,3}(?:邮编[:： ]?)?[0-9]{6}(?![0-9])")
_PLACE_END = re.compile(r"[市县区州旗盟岛域省]")
_CUE = re.compile(
    r"(?:(?:家庭|现|常|联系|通讯|通信|居住|收货|邮寄|单位|户籍|户口|注册|公司|办公|详细|身份证|登记|开户|房屋|房产|抵押物|营业)?(?:住址|地址|住所)|现住|家住|居住于|居住在|常住|暂住|"
    r"户籍(?:所在地|地)?|户口所在地|籍贯|出生地|居住地|现居地?|祖籍|原籍|老家|来自|寄往|寄到|寄至|送至|搬到|搬至|位于|住在|坐落于?|毕业于)[:： 为是在于]{0,4}"
)
_TO_DELIMITER = re.compile(r"[^\s,，。;；、:：|（(<\[]{2,40}")
# Names of cities that are everyday words as well: only with 市 behind them.
_WORDS_TOO = frozenset(
    "阳春 天门 阿里 安康 东方 白银 大同 朝阳 来宾 普洱 固原 和田 海东 黄山 中卫 百色 武威 三明 开封 日照 中山 大理 平凉 海口 宜春 吉安 安顺 保定 大安 安达 "
    "安国 合作 和平 高平 永安 长乐 北安 同江 东港 高安 德兴 新民 平度 万宁 文昌 兴平 兴城 公主岭 安陆 当阳 常宁 凌源 都江 吉首 临海 东兴 大冶 "
    "北流 福安 福清 乐昌 高要 高州 古交 海城 海门 海林 河间 化州 建德 界首 句容 开平 开远 老河口 冷水江 黎城 灵武 龙口 龙海 龙井 明光 南康 "
    "平湖 青铜峡 任丘 荣成 瑞安 瑞金 如皋 三河 沙河 上虞 深州 石首 泰兴 天长 调兵山 铁力 桐城 洪江 万源 新乐 新泰 兴化 兴义 宜城 玉门 增城 章丘 招远 "
    "枝江 钟祥 资兴 文山 怀化 自贡 吴忠 长治 平顶山 丰城 五常 磐石 北票 盖州 大石桥 金华 丽水 丹东 景洪 临江 永城 汉川 中江 敦化 通化 临夏 桐乡 合山 红河 双鸭山 定西 天水 海南 海北 海西 黄南 "
    "四平 山南 吉林 铁门关 可克达拉 双河 昆玉 北屯 河池 广安 池州 凉山 甘南 黄石 白山 白城 白河 武安 南宫 安丘 高密 高邮 江阴 五大连池 绥芬河".split()
)
_NOT_ALONE = frozenset(
    "城区 郊区 矿区 东区 西区 应县 和县 成县 道县 费县 户县 房县 代县 单县 易县 兴县 新县".split()
)


class _Gazetteer:
    """The list of places by what text shows of them."""

    def __init__(self) -> None:
        levels = lexicon.read_places()
        self.words = lexicon.read_words()
        self.full = (levels["prefecture"] | levels["county"]) - _NOT_ALONE
        self.full |= frozenset("北京市 上海市 天津市 重庆市".split())
        self.full |= {
            lexicon.short_name(name) + "州"
            for name in levels["prefecture"]
            if name.endswith("自治州")
        }
        self.longest = max(map(len, self.full))
        short = {lexicon.short_name(name) for name in levels["prefecture"]}
        short |= {name[:-1] for name in levels["county"] if name.endswith("市")}
        short |= frozenset("北京 上海 天津 重庆 香港 澳门 台北 高雄 浦东".split())
        self.short = frozenset(name for name in short - _WORDS_TOO if len(name) > 1)
        begins = "".join(sorted({name[0] for name in self.short}))
        self.begins = re.compile(f"[{begins}]")
        provinces = sorted(
            {*levels["province"], *(lexicon.short_name(name) for name in levels["province"])},
            key=len,
        )
        self.before = re.compile(rf"(?:{'|'.join(reversed(provinces))})[ ]?$")
        self.provinces = frozenset(provinces)


@cache
def _gazetteer() -> _Gazetteer:
    return _Gazetteer()


def find_places(text: str) -> Iterator[Place]:
    """Places of the list with the address around them, and addresses behind cues."""
    begin = end = 0
    for start, stop in sorted([*_full_names(text), *_short_names(text), *_cued(text)]):
        if stop <= end:
            continue
        if start > end:
            if end:
                yield begin, end
            begin = _extend_left(text, start)
        end = _extend_right(text, stop)
    if end:
        yield begin, end


def _full_names(text: str) -> Iterator[Place]:
    places = _gazetteer()
    free = 0
    for match in _PLACE_END.finditer(text):
        stop = match.end()
        for start in range(max(free, stop - places.longest), stop - 1):
            if text[start:stop] in places.full:
                free = stop
                yield start, stop
                break


def _short_names(text: str) -> Iterator[Place]:
    places = _gazetteer()
    free = 0
    for match in places.begins.finditer(text):
        start = match.start()
        if start < free:
            continue
        for size in (4, 3, 2):
            stop = start + size
            if (
                stop <= len(text)
                and text[start:stop] in places.short
                and not _crossed(places, text, start, stop)
            ):
                free = stop
                yield start, stop
                break


def _crossed(places: _Gazetteer, text: str, start: int, stop: int) -> bool:
    """Whether a likelier word begins before the place or ends behind it: 合 | 肥胖."""
    here = places.words.get(text[start:stop], -13.0)
    return any(
        places.words.get(text[first:last], -99.0) > here
        for first, last in (
            (start - 1, start + 1),
            (stop - 1, stop + 1),
            (start, stop + 1),
            (start, stop + 2),
        )
        if first >= 0 and last - first == len(text[first:last])
    )


def _cued(text: str) -> Iterator[Place]:
    """What follows a cue up to the next delimiter, if it holds a part of an address."""
    for cue in _CUE.finditer(text):
        start = cue.end()
        stop = _extend_right(text, start)
        told = cue.group()[-1] in ":："
        if stop == start and told:
            value = _TO_DELIMITER.match(text, start)
            if value and (
                len(value.group()) <= 8 or re.search(r"[路街村镇乡区县市号栋]", value.group())
            ):
                stop = value.end()
        if stop > start:
            yield start, stop


def _extend_left(text: str, start: int) -> int:
    before = _gazetteer().before.search(text, max(0, start - 12), start)
    return before.start() if before else start


def _extend_right(text: str, stop: int) -> int:
    begin = stop
    while True:
        match = _CHAIN.match(text, stop)
        if not match or match.end() == stop:
            break
        stop = match.end()
    if stop > begin and (room := _ROOM.match(text, stop)):
        stop = room.end()
    if postcode := _POSTCODE.match(text, stop):
        stop = postcode.end()
    return stop


RULES: Rules = {
    "LOCATION": (
        (0.6, find_places),
        (
            0.6,
            pattern(
                rf"(?:{_PART}){{1,6}}?(?:{_STREET}|{_ESTATE}|小区|新村|村|镇|乡|社区)(?:[东西南北中]段)?"
                rf"[0-9一二三四五六七八九十]{{1,5}}(?:[-之][0-9]{{1,4}})?(?:号院|号楼|号|栋|幢|座|单元|室|弄|组|队|社)"
                rf"(?:{_NUMBERED}|[ \-]?[0-9]{{2,4}}(?![0-9.]))*"
            ),
        ),
        (
            0.6,
            pattern(
                r"(?<![0-9A-Za-z.])[0-9A-Za-z]{1,4}(?:栋|幢|号楼|座)[0-9A-Za-z]{1,3}(?:单元|门|层|楼)[0-9A-Za-z]{0,5}(?:室|户|号|房)?"
            ),
        ),
        (
            0.6,
            pattern(
                r"(?<![0-9A-Za-z.])[0-9A-Za-z]{1,4}(?:栋|幢|号楼|单元)[0-9A-Za-z]{3,5}(?:室|户|号|房)?"
            ),
        ),
        (0.7, pattern(r"(?:邮编|邮政编码|邮码|邮区)[ :：为是]{0,4}(?P<value>[0-9]{6})(?![0-9])")),
    ),
}
