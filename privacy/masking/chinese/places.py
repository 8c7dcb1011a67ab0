"""Places in Chinese text: cities, counties and districts by name, addresses by their parts.

An address runs from the large to the small without a space: 杭州市西湖区文三路12号3幢2单元501室.
It is found from a place that the list knows, from a street with a number, or from a cue (家住,
地址), and followed part by part to its end. A province alone stays: it is no smaller than a state.
"""

import re
from collections.abc import Iterator
from functools import cache

from privacy.masking.chinese import lexicon
from privacy.masking.patterns import Place, Rules, pattern

_ANY_HAN = re.compile(r"[\u4e00-\u9fff]")
_HAN = r"\u4e00-\u9fff"
# What cannot stand inside a place's name: the words around it.
_AROUND = "在于住到至的了和与及为从往去自是由因被把向对给将已曾并而且或若如等有无者址"
_PART = rf"[{_HAN}](?<![{_AROUND}])"
_ADMINISTRATIVE = (
    r"自治区|特别行政区|自治州|自治县|自治旗|地区|新区|开发区|高新区|工业园区?|产业园|街道办?事?处?|社区|居委会|村委会|行政村|自然村|新村|林场|农场|"
    r"省|市|县|区|旗|盟|镇|乡|苏木|村|庄|屯|寨|街道"
)
_STREET = r"大道|大街|公路|胡同|路|街|巷|弄"
_ESTATE = (
    r"小区|花园|家园|花苑|花城|花都|公寓|大厦|广场|新城|新苑|家属院|宿舍|公馆|豪庭|名苑|名城|国际城|雅苑|嘉园|嘉苑|佳苑|佳园|山庄|大楼|写字楼|"
    r"苑|府|湾|庭|城|园|坊|居|轩|阁"
)
# Parts of a town that are named after what is done there, with a name before it or without.
_ZONE = (
    r"(?:科技|科学|软件|工业|创业|创新|创意|物流|电子|信息|生物|医药|文化|农业|高新技术|经济技术)"
    r"(?:园区|园|城|谷|港|开发区)|大学城|保税区|度假区"
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
    rf"(?:{_PART}){{0,6}}?(?:{_ZONE})|"
    # Few villages begin with a word of grammar; behind a county they are villages.
    rf"[和向上下从有][{_HAN}]{{0,2}}(?:乡|镇|村)|"
    rf"(?:东|南|西|北|中|前|后)[侧面段路街门区口](?![皮])|"
    rf"{_NUMBERED}[) ]?|[ ,]?(?=(?:{_PART}){{2,6}}?(?:路|街|村|小区|镇|乡|区|县)))"
)
_HOUSE = re.compile(
    r"(?<![0-9一二三四五六七八九十])[0-9一二三四五六七八九十]{1,5}(?:[\-之][0-9]{1,4})?(?:号院|号楼|号|栋|幢|座|单元|室|弄|组|队|社)"
)
_BEFORE_HOUSE = re.compile(
    rf"(?:{_PART}){{1,6}}?(?:{_STREET}|{_ESTATE}|小区|新村|村|镇|乡|社区)(?:[东西南北中]段)?$"
)
_ROOM = re.compile(r"[ \-]?[0-9]{2,4}[A-Z]?(?:-[0-9]{1,4})?(?![0-9.年月日号:])")
_POSTCODE = re.compile(r"[ ,;(]{1,3}(?:邮编[: ]?)?[0-9]{6}(?![0-9])")
_PLACE_END = re.compile(r"[市县区州旗盟岛域省]")
_CUE = re.compile(
    r"(?:(?:住址|地址|住所)|现住|家住|居住[于在]|常住|暂住|户籍(?:所在地|地)?|户口所在地|籍贯|出生地|"
    r"居住地|现居地?|祖籍|原籍|老家|来自|寄[往到至]|送至|搬[到至]|位于|住在|坐落于?|毕业于)"
    r"[: 为是在于]{0,4}"
)
_TO_DELIMITER = re.compile(r"[^\s,。;、:|(<\[]{2,40}")


class _Gazetteer:
    """The list of places by what text shows of them."""

    def __init__(self) -> None:
        doubtful = lexicon.read_groups("doubtful_places.txt")
        levels = lexicon.read_groups("places.txt")
        self.words = lexicon.read_words()
        self.full = (levels["prefecture"] | levels["county"]) - doubtful["generic"]
        self.full |= frozenset(["北京市", "上海市", "天津市", "重庆市"])
        self.full |= {
            lexicon.short_name(name) + "州"
            for name in levels["prefecture"]
            if name.endswith("自治州")
        }
        self.longest = max(map(len, self.full))
        short = {lexicon.short_name(name) for name in levels["prefecture"]}
        short |= {name[:-1] for name in levels["county"] if name.endswith("市")}
        short |= frozenset("北京 上海 天津 重庆 香港 澳门 台北 高雄 浦东".split())  # noqa: SIM905
        self.short = frozenset(name for name in short - doubtful["word"] if len(name) > 1)
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
    if not _ANY_HAN.search(text):
        return
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


def find_numbered_streets(text: str) -> Iterator[Place]:
    """A street, estate or village with a number behind it, wherever it is: 建设路12号3幢501."""
    end = 0
    for house in _HOUSE.finditer(text):
        if house.start() < end:
            continue
        street = _BEFORE_HOUSE.search(text, max(end, house.start() - 12), house.start())
        if street:
            end = _extend_right(text, house.end())
            yield street.start(), end


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
    stop = 0
    for cue in _CUE.finditer(text):
        start = cue.end()
        # What is inside an address already would be followed to its end from every cue again.
        if start < stop:
            continue
        stop = _extend_right(text, start)
        told = cue.group()[-1] == ":"
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
        (0.6, find_numbered_streets),
        (
            0.6,
            pattern(
                r"(?<![0-9A-Z.])[0-9A-Z]{1,4}(?:[栋幢座]|号楼)[0-9A-Z]{1,3}"
                r"(?:单元|[门层楼])[0-9A-Z]{0,5}[室户号房]?",
                likely="[栋幢座]|号楼",
            ),
        ),
        (
            0.6,
            pattern(
                r"(?<![0-9A-Z.])[0-9A-Z]{1,4}(?:[栋幢]|号楼|单元)[0-9A-Z]{3,5}[室户号房]?",
                likely="[栋幢]|号楼|单元",
            ),
        ),
        (0.7, pattern(r"邮(?:编|政编码|码|区)[ :为是]{0,4}(?P<value>[0-9]{6})(?![0-9])")),
    ),
}
