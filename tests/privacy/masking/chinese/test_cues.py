"""A cue before a number makes it personal; without one the number may stay."""

import pytest

from privacy.masking.config import ENTITY_TYPES
from privacy.masking.mask import mask, merge
from privacy.masking.recognisers import find

CUED = {
    "ACCOUNT_NUMBER": (
        "账号：4471220953",
        "帐号 6217 8888 1234 567",
        "对公账户为1101040160000123456",
        "户号10023",
        "微信号：wx_zhang88",
        "QQ：12345678",
        "QQ号10001234",
        "支付宝账号13x99887766",
        "借款合同编号：JK-2023-00123",
        "尾号1234",
        "卡号后四位：8891",
    ),
    "CREDIT_CARD": ("卡号：6222021234567890", "银行卡号 1234567890123456"),
    "CUSTOMER_ID": ("客户号：C-483920", "会员编号 100233", "工号00812", "柜员号7731"),
    "CVV": ("CVV2：123", "安全码是 737", "背面后三位：009"),
    "DEVICE_ID": ("序列号：SN-4829113", "IMEI：35-209900-176148-1", "起搏器编号PM2231"),
    "HEALTH_PLAN_NUMBER": ("医保卡号：A12345678", "社保号310022334455", "参保编号99210034"),
    "LICENCE_NUMBER": (
        "执业证号：110320000012345",
        "医师资格证书编码2014110000",
        "驾驶证号430102199",
    ),
    "PASSPORT": ("护照号码：X4829113", "台胞证01234567", "回乡证号H0123456701"),
    "PASSWORD": ("密码：abc12345", "验证码是483920", "口令 P@ss-2023!", "取件码：8-2-3019"),
    "PHONE": ("电话：88886666", "传真 6234-5678", "联系方式：8008208820转12"),
    "RECORD_NUMBER": (
        "病历号：48213",
        "病案号0048213",
        "住院号：ZY0012345",
        "门诊号 2231",
        "登记号 99102",
        "检查号：CT20231",
        "病理号199546",
        "工单：2810094",
        "流水号：TX-8821-001",
        "编号：A-102",
        "ID：77120",
    ),
    "RESIDENT_ID": ("身份证号：11010519491231", "证件号码 4401061990010112"),
    "ROUTING_NUMBER": ("联行号：102100099996", "行号 105100000017"),
    "SOCIAL_CREDIT_CODE": ("税号：913501000001234567", "组织机构代码 12345678-9"),
    "SORT_CODE": ("分行代码12-34-56",),
    "SSN": ("社会安全号：078-05-1120",),
    "SWIFT": ("SWIFT代码：BKCHCNBJ110",),
    "VEHICLE": ("车架号：LSVAU2180N2183294", "发动机号B12345"),
}
CASES = [(kind, text) for kind, texts in CUED.items() for text in texts]


def masked(text: str) -> str:
    return mask(text, merge(find(text, ENTITY_TYPES, ("zh",))))


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_what_stands_behind_a_cue_is_masked_and_the_cue_stays(kind: str, text: str) -> None:
    result = masked(f"备注：{text}，特此说明。")
    assert f"[{kind}]，特此说明。" in result
    assert result.startswith("备注：" + text[:2])
    assert not any(character.isdigit() for character in result.replace("CVV2", ""))


@pytest.mark.parametrize(
    "text",
    [
        "请输入密码，如忘记密码请重置。",
        "验证码已发送，请注意查收。",
        "住院3天，门诊复查2次，编号不详。",
        "客户5人，账户余额300元。",
        "病理3级，检查2次，手术1例。",
    ],
)
def test_a_cue_without_an_identifier_masks_nothing(text: str) -> None:
    assert masked(text) == text
