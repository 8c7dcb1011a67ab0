"""Identifiers that only the word before them tells: 病历号 48213, 密码是 abc123.

The value is found first, then the words before it are read: text is mostly Han, values are few.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from privacy.masking.patterns import ANY, Finder, Place, Rules, pattern

# How far before a value its cue may begin.
_REACH = 14
# Above a check digit that holds by chance: what a number is called decides what it is.
_CUED = 0.92
_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9+(*!@#$%^&~?_]")
# What stands between a cue and its value.
_LINK = " \t:=#([【「“‘\"'是为系即约叫改(，,|\n"
_NUMBER = r"(?:号码|编号|编码|代码|单号|序号|识别码|号|码|ID|No\.?)"
_END = r"(?![A-Z0-9]|\.[0-9]|[ ]?(?:%|元|万|岁|天|次|个|例|月|级|期|mm|cm|ml|mg))"
_CODE = (
    r"(?=[A-Z0-9/\-_*]{3})(?=[A-Z/\-_*]*[0-9][A-Z0-9/\-_*]*[0-9])"
    r"[A-Z0-9*]++(?:[/\-_]{1,2}[A-Z0-9*]++)*+" + _END
)
# Groups of digits, as account numbers are printed.
_GROUPS = r"[0-9*]{3,6}(?:[ \-]?[0-9*]{2,6}){1,6}(?![0-9])"

# Type, what stands before a value, the value. The first that fits is taken.
_CUES: tuple[tuple[str, str, str], ...] = (
    (
        "PASSWORD",
        r"密码|口令|密钥|私钥|验证码|校验码|动态码|动态密码|确认码|激活码|授权码|取件码|提取码|查询码|PIN码?|passwd|password|token|secret|"
        r"api[ _\-]?key|access[ _\-]?key",
        r"(?=[!-~]{4})[A-Z0-9!@#$%^&*_+~?./\\\-]{3,63}[A-Z0-9!@#$%^&*_+~?]",
    ),
    (
        "CVV",
        r"CVV2?码?|CVC2?码?|CVN2?码?|安全码|(?:后|末)三位(?:数字?)?|校验三位",
        r"[0-9]{3,4}(?![0-9.%])",
    ),
    (
        "SWIFT",
        r"SWIFT(?:代?码|号)?|BIC(?:代码)?|国际汇款代码|银行国际代码",
        r"[A-Z]{4}[A-Z]{2}[A-Z0-9]{2}(?:[A-Z0-9]{3})?(?![A-Z0-9])",
    ),
    ("SORT_CODE", r"分行代码|分行号|清算代码|sort code", r"[0-9]{2}-?[0-9]{2}-?[0-9]{2}(?![0-9])"),
    ("SSN", r"社会安全号码?|社安号码?|SSN", r"[0-9]{3}-?[0-9]{2}-?[0-9]{4}(?![0-9])"),
    (
        "ROUTING_NUMBER",
        r"(?:联行|银行|支付|清算)行?号|行号|CNAPS(?:号|码|代码)?",
        r"[0-9]{8,14}(?![0-9])",
    ),
    (
        "SOCIAL_CREDIT_CODE",
        r"信用代码|机构代码|纳税人?识别号|税号|税务登记证号?|工商注册号?|注册号",
        r"[0-9A-Z]{8}-?[0-9A-Z]{1,12}(?![0-9A-Z])",
    ),
    (
        "RESIDENT_ID",
        r"身份证(?:件)?(?:号码|号|证号)?|证件号码?|身份号码?|公民身份号码?|户口[本簿]号?|身份证明号码?|身份识别号",
        r"[0-9][0-9*X]{7,17}(?:[ \-][0-9X*]{4,8})*(?![0-9A-Z])",
    ),
    (
        "HEALTH_PLAN_NUMBER",
        rf"(?:医保|社保|社会保障|医疗保险|农合|合作医疗|医疗证|保险单?|保单|参保|理赔|赔案)(?:人|个人|卡|证|合同|电脑)?{_NUMBER}|(?:医保|社保)卡|保险单",
        _CODE,
    ),
    (
        "LICENCE_NUMBER",
        rf"(?:执业|资格|从业|职称|驾驶|行驶|许可|营业|会计|作业|执照|合格)(?:证书?|执照|资格证书?){_NUMBER}?|驾照{_NUMBER}?|驾驶证档案编号|执业{_NUMBER}|证书{_NUMBER}",
        _CODE,
    ),
    (
        "PASSPORT",
        rf"(?:护照|通行证|台胞证|回乡证|居留许可|居留证|居住证|永居证|签证|海员证|旅行证|护照证件){_NUMBER}?",
        _CODE,
    ),
    (
        "VEHICLE",
        rf"车架{_NUMBER}?|车辆识别代{_NUMBER}|发动机{_NUMBER}|VIN码?|车牌{_NUMBER}?|号牌{_NUMBER}",
        _CODE,
    ),
    (
        "DEVICE_ID",
        rf"(?:设备|仪器|终端|机身|产品|器械|起搏器|支架|植入物|假体|呼吸机|监护仪|泵|机具|机器){_NUMBER}|序列号|IMEI码?|IMSI|ICCID|UDI|MEID|MAC地址|S/N|SN码?",
        _CODE,
    ),
    (
        "CUSTOMER_ID",
        rf"(?:客户|会员|用户|储户|投保人|员工|职工|柜员|警|学|教工|操作员|坐席){_NUMBER}|工号|用户名|登录名",
        _CODE,
    ),
    (
        "CREDIT_CARD",
        r"卡片?(?:号码|号)?",
        r"[0-9]{4,6}(?:[ \-]?[0-9*]){8,15}(?![0-9])",
    ),
    (
        "ACCOUNT_NUMBER",
        r"(?:账|帐)(?:号|户)(?:号码|号)?|户号|存折号?|存单号?|借据号?|(?:贷款|借款|保证|抵押|授信)合同(?:编号|号)?|支付宝(?:账号|号)?|微信(?:账号|号)?|wechat|weixin|"
        r"QQ(?:号码|号|群号?)?|(?:抖音|微博|飞信|淘宝|快手)(?:账号|号)?|公积金号?|股东号|席位号",
        rf"(?:{_GROUPS}|{_CODE})",
    ),
    (
        "PHONE",
        r"电话(?:号码|号)?|手机(?:号码|号)?|座机|传真|联系方式|热线|电联|致电|拨打|来电|回电|FAX|TEL|Mobile|通话|短信|号码",
        r"\+?\(?[0-9](?:[ \-()]{0,2}[0-9*]){6,14}(?![0-9])"
        r"(?:[ ,;\-]{0,2}(?:转|分机)号?[ :]{0,2}[0-9]{1,6})?",
    ),
    (
        "RECORD_NUMBER",
        rf"(?:病历|病案|病例|住院|门诊|急诊|就诊卡?|诊疗卡?|挂号|登记|检查|检验|病理|标本|样本|影像|放射|超声|内镜|CT|MRI|MR|X线|DR|条形?码|申请单?|处方|医嘱|"
        rf"档案|体检|患者|病人|报告单?|手术|麻醉|输血|血袋|透析|出生证|死亡证|案件?|工单|合同|协议|订单|流水|凭证|回单|发票|票据|受理|业务|投诉|进件|授信|"
        rf"放款|批次|快递|运单|物流|房产证|产权证|军官证|士兵证|残疾证|护理|随访|入组|受试者|"
        rf"床头卡){_NUMBER}|编号|单号|证号|(?<![A-Z] )ID|MRN|档案|工单|订单|运单|快递|就诊卡|"
        r"诊疗卡|门诊",
        _CODE,
    ),
)
_COMPILED = tuple(
    (
        entity_type,
        re.compile(rf"(?:(?<![A-Z])|(?=[^A-Z]))(?:{cue})\Z", ANY),
        re.compile(value, ANY),
    )
    for entity_type, cue, value in _CUES
)
# The last characters of all cues: most values stand behind none of them.
_LAST = frozenset(
    "号码令钥折单据证件书可照泵户卡话机真式线联打电信宝博音手址名同簿本N字N位档案诊递期度金QFPNCVIDKESGTLXMRnektydgwchaeixlt2."
)


@lru_cache(maxsize=1)
def _found(text: str) -> dict[str, list[Place]]:
    """Places by type. Each type's finder asks for the same text in turn: it is read once."""
    places: dict[str, list[Place]] = {}
    free = 0
    for match in _START.finditer(text):
        start = match.start()
        if start < free:
            continue
        before = text[max(0, start - _REACH) : start].rstrip(_LINK)
        if not before or before[-1] not in _LAST:
            continue
        for entity_type, cue, value in _COMPILED:
            if cue.search(before) and (found := value.match(text, start)):
                free = found.end()
                places.setdefault(entity_type, []).append(found.span())
                break
    return places


def _cued(entity_type: str) -> Finder:
    def finder(text: str) -> Iterator[Place]:
        yield from _found(text).get(entity_type, ())

    return finder


RULES: Rules = {
    entity_type: ((_CUED, _cued(entity_type)),) for entity_type, _, _ in sorted(_CUES)
} | {
    "ACCOUNT_NUMBER": (
        (_CUED, _cued("ACCOUNT_NUMBER")),
        (
            0.7,
            pattern(
                r"(?:尾号|[末后][四4]位|尾数)(?:号码|是|为|:|[ \t]|数字){0,4}"
                r"(?P<value>[0-9]{3,6})(?![0-9.%])"
            ),
        ),
    ),
    # No sentence needs eight digits in a row; account and record numbers do.
    "RECORD_NUMBER": (
        (_CUED, _cued("RECORD_NUMBER")),
        (0.3, pattern(r"(?<![0-9.])[0-9]{8,}(?![0-9]*\.[0-9]| ?[元%])")),
        (0.4, pattern(r"(?<![A-Z0-9])[A-Z]{1,4}[\-#]?[0-9]{6,12}(?![0-9])")),
    ),
}
