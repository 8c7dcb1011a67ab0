"""Clinical and bank notes in Chinese with every piece of personal data marked.

Nobody's data: Faker makes the values, the templates are written for this measurement. The templates
of `dev` and `test` share no sentence; rules are developed on `dev`, figures are reported on `test`.
"""

import re
from collections.abc import Callable, Iterator

from faker import Faker

from privacy.masking.mask import Span

_SLOT = re.compile(r"\{([a-z_]+?)(\d*)\}")
_HAN = "〇一二三四五六七八九"
_RESIDENT_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CREDIT_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_UYGHUR = (
    "买买提",
    "艾力",
    "古丽娜尔",
    "阿卜杜拉",
    "吐尔逊",
    "热依汗",
    "帕提古丽",
    "努尔买买提",
    "木合塔尔",
    "阿依古丽",
)


class _Values:
    """Makes the values of one note; a slot with a number keeps its value inside the note."""

    def __init__(self, fake: Faker) -> None:
        self._fake = fake

    def _any(self, *choices: str) -> str:
        return str(self._fake.random_element(choices))

    def _digits(self, form: str) -> str:
        return str(self._fake.numerify(form))

    def name(self) -> str:
        return str(self._fake.name())

    def surname(self) -> str:
        return str(self._fake.last_name())

    def somebody(self) -> str:
        return self.surname() + self._any("某", "某某")

    def familiar(self) -> str:
        return self._any("小", "老") + self._any(*"王李张刘陈杨赵吴周徐孙朱")

    def minority(self) -> str:
        return f"{self._any(*_UYGHUR)}·{self._any(*_UYGHUR)}"

    def resident(self) -> str:
        digits = str(self._fake.ssn())[:17]
        total = sum(int(d) * w for d, w in zip(digits, _RESIDENT_WEIGHTS, strict=True))
        return digits + "10X98765432"[total % 11]

    def resident_old(self) -> str:
        number = self.resident()
        return number[:6] + number[8:17]

    def mobile(self) -> str:
        number = str(self._fake.phone_number())
        return self._any(
            number,
            number,
            f"{number[:3]} {number[3:7]} {number[7:]}",
            f"+86 {number}",
            f"{number[:3]}-{number[3:7]}-{number[7:]}",
        )

    def landline(self) -> str:
        area = self._any("010", "021", "0571", "028", "0755", "0993")
        return self._any(
            f"{area}-{self._any('5', '6', '8')}{self._digits('#######')}",
            f"({area}){self._any('5', '6', '8')}{self._digits('#######')}",
            f"{area}-{self._any('5', '6', '8')}{self._digits('#######')}转{self._digits('%##')}",
        )

    def card(self) -> str:
        body = "62" + self._digits("#" * self._fake.random_element((13, 16)))
        number = next(body + d for d in "0123456789" if _luhn(body + d))
        grouped = " ".join(number[start : start + 4] for start in range(0, len(number), 4))
        return self._any(number, grouped)

    def account(self) -> str:
        return self._digits(self._any("%###########", "%##############", "%#######-##"))

    def passport(self) -> str:
        return self._any(
            f"E{self._digits('########')}",
            f"G{self._digits('########')}",
            f"E{self._any(*'ABCDEFGH')}{self._digits('#######')}",
            f"C{self._digits('########')}",
            f"H{self._digits('########')}",
            f"M{self._digits('##########')}",
        )

    def plate(self) -> str:
        letter = self._any(*"ABCDEFGHJK")
        province = self._any(*"京津冀晋辽吉黑沪苏浙皖闽赣鲁豫鄂湘粤桂琼渝川贵云陕甘青宁新")
        return (
            province
            + letter
            + self._any(
                self._digits("#####"),
                f"·{self._digits('#####')}",
                f"{self._any(*'ABCEFG')}{self._digits('####')}",
                f"D{self._digits('#####')}",
                f"F{self._digits('#####')}",
            )
        )

    def credit_code(self) -> str:
        body = self._any("91", "92", "52", "12") + self._any(
            "110105", "310115", "440305", "350100"
        )
        body += "".join(self._any(*_CREDIT_ALPHABET) for _ in range(9))
        total = sum(_CREDIT_ALPHABET.index(c) * pow(3, i, 31) for i, c in enumerate(body))
        return body + _CREDIT_ALPHABET[-total % 31]

    def record(self) -> str:
        return self._any(
            self._digits("00######"),
            self._digits("%######"),
            f"ZY{self._digits('########')}",
            f"{self._digits('20######')}-{self._digits('##')}",
            f"M{self._digits('#######')}",
        )

    def insured(self) -> str:
        return self._any(
            self._digits("%#########"),
            f"A{self._digits('########')}",
            self._digits("%###########"),
        )

    def licence(self) -> str:
        return self._any(self._digits("1101100000#####"), self._digits("2014#############"))

    def customer(self) -> str:
        return self._any(
            self._digits("%#########"),
            f"KH{self._digits('#######')}",
            f"C-{self._digits('######')}",
        )

    def device(self) -> str:
        return self._any(
            f"SN{self._digits('########')}",
            f"PM-{self._digits('######')}",
            self._digits("86#############"),
        )

    def routing(self) -> str:
        return self._digits("1021000#####")

    def password(self) -> str:
        return self._any(
            self._digits("######"),
            f"{self._any('Abc', 'zhang', 'Qw')}{self._digits('####')}",
            "P@ss" + self._digits("###"),
        )

    def tail(self) -> str:
        return self._digits("####")

    def cvv(self) -> str:
        return self._digits("###")

    def email(self) -> str:
        return str(self._fake.ascii_safe_email())

    def url(self) -> str:
        return f"https://www.example.com/u/{self._digits('#####')}"

    def ip(self) -> str:
        return str(self._fake.ipv4())

    def wechat(self) -> str:
        return self._any(
            f"wx_{self._digits('######')}",
            self._digits("%########"),
            f"lily{self._digits('####')}",
        )

    def postcode(self) -> str:
        return self._digits("%#####")

    def high_age(self) -> str:
        return self._any("91岁", "93岁", "95周岁", "102岁", "九十二岁", "九十六岁", "90岁")

    def date(self) -> str:
        day = self._fake.date_object()
        return self._any(
            f"{day.year}年{day.month}月{day.day}日",
            f"{day.year}年{day.month:02}月{day.day:02}日",
            f"{day.year}-{day.month:02}-{day.day:02}",
            f"{day.year}.{day.month}.{day.day}",
            f"{day.year}/{day.month}/{day.day}",
            f"{day.month}月{day.day}日",
            f"{day.month}月{day.day}号",
            f"{day.year}年{day.month}月",
            f"{day.year}{day.month:02}{day.day:02}",
            f"{_han_year(day.year)}年{_han(day.month)}月{_han(day.day)}日",
        )

    def address(self) -> str:
        fake = self._fake
        street = f"{fake.last_name()}{self._any('家', '园', '山', '江', '新')}{self._any('路', '街', '大道', '巷')}"
        city = self._any(
            "浙江省杭州市西湖区",
            "广东省深圳市南山区",
            "北京市朝阳区",
            "河南省郑州市金水区",
            "四川省成都市武侯区",
            "江苏省南京市鼓楼区",
            "上海市浦东新区",
            "湖北省武汉市洪山区",
            "山东省济南市历下区",
            "陕西省西安市雁塔区",
            "辽宁省沈阳市和平区",
            "新疆维吾尔自治区乌鲁木齐市天山区",
            "湖南省长沙县",
            "福建省晋江市",
        )
        house = self._any(
            f"{self._digits('%#')}号",
            f"{self._digits('%##')}号{self._digits('%')}幢{self._digits('%')}单元{self._digits('%0%')}室",
            f"{self._digits('%')}号院{self._digits('%')}号楼{self._digits('%0%')}",
            f"{self._digits('%#')}弄{self._digits('%')}号{self._digits('%0%')}室",
            f"{self._any('阳光', '翠苑', '金色', '锦绣')}{self._any('小区', '花园', '家园')}{self._digits('%')}栋{self._digits('%0%')}",
        )
        return self._any(
            city + street + house,
            city + street + house,
            city[3:] + street + house,
            street + self._digits("%#") + "号",
        )

    def village(self) -> str:
        return (
            self._any("河北省邯郸市永年县", "安徽省阜阳市临泉县", "甘肃省定西市陇西县")
            + self.surname()
            + self._any("家村", "庄村", "集镇", "店乡")
            + self._any("", f"{self._digits('%')}组", f"{self._digits('%#')}号")
        )

    def city(self) -> str:
        return self._any(
            "杭州",
            "深圳市",
            "郑州",
            "成都市",
            "大连",
            "青岛市",
            "昆明",
            "义乌市",
            "邯郸",
            "厦门市",
            "苏州",
            "海淀区",
        )


_TYPES = {
    "name": "PERSON", "surname": "PERSON", "somebody": "PERSON", "familiar": "PERSON", "minority": "PERSON",
    "resident": "RESIDENT_ID", "resident_old": "RESIDENT_ID", "mobile": "PHONE", "landline": "PHONE",
    "card": "CREDIT_CARD", "account": "ACCOUNT_NUMBER", "passport": "PASSPORT", "plate": "VEHICLE",
    "credit_code": "SOCIAL_CREDIT_CODE", "record": "RECORD_NUMBER", "insured": "HEALTH_PLAN_NUMBER",
    "licence": "LICENCE_NUMBER", "customer": "CUSTOMER_ID", "device": "DEVICE_ID", "routing": "ROUTING_NUMBER",
    "password": "PASSWORD", "cvv": "CVV", "tail": "ACCOUNT_NUMBER", "email": "EMAIL", "url": "URL", "ip": "IP_ADDRESS", "wechat": "ACCOUNT_NUMBER",
    "postcode": "LOCATION", "high_age": "AGE", "date": "DATE", "address": "LOCATION", "village": "LOCATION", "city": "LOCATION",
}  # fmt: skip

DEV = (
    "姓名：{name1}  性别：女  年龄：56岁  住院号：{record}\n入院日期：{date}\n患者因“反复胸闷3月余，加重5天”入院。既往高血压病史10年，最高180/100mmHg，规律口服氨氯地平5mg qd。\n"
    "家属{name}（丈夫）陪同，联系电话{mobile}。家住{address}。\n主治医师：{name}",
    "患者{name1}，男，68岁，退休工人，身份证号{resident}，于{date}由门诊收入院。查体：T 36.8℃，P 82次/分，R 20次/分，BP 135/85mmHg。神清，心肺听诊无殊，腹软，无压痛。"
    "{name1}诉夜间咳嗽较前好转。{name}主任医师查房后指示：继续目前治疗，完善胸部CT。",
    "出院小结\n{name}，病案号{record}，{date}入院，{date}出院。诊断：2型糖尿病，糖尿病周围神经病变。出院带药：二甲双胍0.5g bid，阿卡波糖50mg tid。2周后复查，不适随诊。医师签名：{name}",
    "护理记录：{date} 14:30 患者诉切口疼痛，评分4分，遵{name}医生医嘱予曲马多50mg肌注。其子{name}在旁陪护，电话{mobile}。护士：{name}",
    "会诊单：申请科室心内科，申请医师{name}，会诊医师{name}。患者{high_age}，跌倒后髋部疼痛2小时，X线示左股骨颈骨折。医保卡号：{insured}，检查号：{record}。",
    "客户{name1}（客户号{customer}，证件号码{resident}）于{date}来我行办理借记卡挂失，卡号{card}，预留手机{mobile}。经办柜员{name}，复核{name}。",
    "贷款调查报告：借款人{name1}，{name1}配偶{name}，现住{address}，邮编{postcode}，月收入12000元，名下有房产一套，车辆一台（{plate}）。申请金额30万元，期限36个月，还款账号{account}。",
    "投诉工单{record}：{surname}先生来电反映{date}在ATM取款2000元未吐钞，卡尾号{tail}的验证码短信未收到，要求回电{mobile}，邮箱{email}。处理人：{name}。",
    "法定代表人{name}，统一社会信用代码{credit_code}，注册地址{address}，开户行行号{routing}，联系电话{landline}。经核查，该企业近三年无不良记录。",
    "我叫{name}，今年春节后头晕，血压160/95，在{city}看过，{surname}大夫说是颈椎病，吃了两周药没好，微信号{wechat}，麻烦专家看看。",
    "患者{minority}，维吾尔族，男，45岁，家住{village}，因腹痛伴呕吐1天入院。急查血淀粉酶升高，诊断急性胰腺炎。家属{minority}签字。护照号{passport}。",
    "转账备注：{name}还{name}5月房租3500元，账号{account}。附言：密码{password}请勿告诉他人，登录IP {ip}，卡背面安全码{cvv}。",
    "{date}，{somebody}因交通事故致头部外伤，对方车牌{plate}。急诊CT：左侧颞叶脑挫裂伤。{familiar}是其同事，已通知家属。旧身份证{resident_old}。",
    "医师{name}，执业证编码：{licence}，{date}为患者植入起搏器一台，序列号{device}。患者{name}，登记号{record}，术后生命体征平稳。",
)
TEST = (
    "一般情况\n患者姓名 {name1}，女性，41岁，已婚，汉族，籍贯{city}，住址：{address}，门诊号 {record}。\n主诉：发现右乳肿物1月。\n现病史：患者1月前无意中触及右乳肿物，约2cm×1cm，质硬，活动度差，无乳头溢液。{date}于外院行超声检查提示BI-RADS 4b类。\n"
    "父亲{name}体健，母亲{name}患“冠心病”。病史由{name1}本人提供，可靠。\n住院医师 {name} / 主治医师 {name}",
    "手术记录  手术日期：{date}  手术名称：腹腔镜下胆囊切除术  术者：{name}  一助：{name}  麻醉医师：{name}\n患者{name}取平卧位，全麻成功后常规消毒铺巾，建立气腹，压力12mmHg，探查腹腔未见明显异常，胆囊大小约8×4cm，壁厚，与周围组织轻度粘连。手术顺利，出血约20ml，标本送病理（病理号{record}）。",
    "今日{name}教授查房：患者精神可，体温37.2℃，引流量约50ml，色淡红。指示拔除尿管，鼓励下床活动。嘱家属{name}加强营养，手机{mobile}保持畅通。",
    "急诊科{date}接诊记录。120送入，{high_age}老人，由孙女{name}代述病史：今晨6时突发左侧肢体无力伴言语不清。NIHSS 9分，头颅CT排除出血，与家属沟通溶栓风险，{name}签署知情同意书。参保号{insured}。",
    "随访：电话联系{name1}（{mobile}），诉出院后无发热、腹痛，饮食睡眠可，切口愈合好。{name1}之女{name}补充近期偶有头晕。预约{date}复诊，请持就诊卡{record}到内分泌科找{name}医师。",
    "病理报告 送检单位：{city}第二人民医院 送检医生：{name} 病理编号：{record} 镜下：胃窦腺癌，中分化，侵及浆膜下层，淋巴结1/15见癌转移。报告医师：{name} 审核医师：{name} 报告时间：{date}",
    "孕妇{name}，28岁，孕39+2周，身份证{resident}，现居{address}，丈夫{name}，电话{landline}。{date} 08:15顺娩一女婴，Apgar评分9-10分。助产士{name}。",
    "患者为{minority}，因发热3天就诊，来自{village}，翻译{minority}陪同。既往体健，否认药物过敏史。通行证号码{passport}。",
    "我行于{date}受理{name1}女士的个人住房按揭申请，{name1}的身份证号码为{resident}，共同借款人{name}，联系方式{mobile}，抵押物位于{address}。客户经理：{name}，工号{customer}。",
    "尊敬的{surname}女士：您尾号{tail}的信用卡于{date}消费人民币1,280.00元。如非本人操作请致电客服。您的验证码为{password}，请勿泄露。",
    "反洗钱可疑交易报告：主体{name1}，证件{resident}，账户{account}在{date}至{date}期间与{name}、{name}频繁发生大额转账，交易IP地址{ip}，累计金额235万元，资金快进快出。报告人{name}。",
    "汇款人：{name}，收款人：{name}，收款账号：{card}，开户行联行号：{routing}，用途：货款，金额：58,000.00元，联系邮箱{email}。",
    "企业{name}个体经营部，信用代码：{credit_code}，经营者{name}，经营地址{address}，联系人{name}，电话{landline}，授信合同编号{record}。",
    "客服：您好，请问怎么称呼？\n客户：我姓{surname}，叫{name}，我的卡{card}被吞了，CVV2是{cvv}。\n客服：好的{surname}先生，请提供预留手机号。\n客户：{mobile}，QQ号{wechat}，网址{url}打不开。",
    "理赔案：出险人{name}，{date}驾驶{plate}与{somebody}驾驶的小型轿车（{plate}）在{city}相撞。驾驶证号{licence}，保单号{insured}，{familiar}为现场目击者。",
    "医生{name}，医师执业证书编号{licence}。植入人工晶体，产品序列号：{device}。患者旧证件号{resident_old}，登录密码{password}。术后第1天视力0.6。",
    "个人简历：{name1}，出生于{date}，户籍{city}，现就职于某三甲医院检验科。紧急联系人：{name}（父亲），{mobile}。电子邮箱：{email}。推荐人：{name}教授。{name1}工作踏实，待人真诚。",
    "病程记录 {date} 08:30  昨夜{name}诉心悸，值班医师{name}予心电图检查示窦性心动过速，未予特殊处理，今晨缓解。血钾3.9mmol/L，肌酐88μmol/L。上级医师{name}看过患者，同意目前诊疗方案。",
    "甲方（出借人）：{name}，身份证号：{resident}；乙方（借款人）：{name}，身份证号：{resident}。乙方因资金周转向甲方借款人民币拾万元整，期限自{date}起至{date}止，年利率6%。见证人：{name}。",
    "{surname}老师您好，我妈妈{name}今年64岁，{date}做的胃镜，医生说是慢性萎缩性胃炎伴肠化，目前住在{address}，去{city}看病不太方便，您看需要吃什么药？我的电话是{mobile}。",
    "坐席：请核对您的信息，{name1}，证件尾号{tail}，对吗？客户：对的，我是{name1}，我想把预留手机改成{mobile}。坐席：好的，{name1}，已为您登记，工单编号{record}。",
    "死亡病例讨论：主持人{name}主任，参加人员{name}、{name}、{name}。死者{name}，男，{high_age}，住院号{record}，{date}因“呼吸困难1周”入院，死亡时间{date}。",
    "保管箱租用人{name}，护照{passport}，于{date}到访，凭密码{password}开箱，陪同人员为{name}，车牌号{plate}，访客电话{landline}。",
    "接{city}公安局协查通知，查询{name}名下账户{account}、{card}自{date}以来的流水。经办民警{name}，警号{customer}。本行已于当日反馈，复核人{name}。",
)  # fmt: skip


def notes(
    count: int, seed: int, *, templates: tuple[str, ...] = TEST
) -> Iterator[tuple[str, tuple[Span, ...]]]:
    """`count` notes with the spans of their personal data, the same for the same seed."""
    fake = Faker("zh_CN")
    fake.seed_instance(seed)
    for number in range(count):
        yield _fill(templates[number % len(templates)], _Values(fake))


def _fill(template: str, values: _Values) -> tuple[str, tuple[Span, ...]]:
    pieces: list[str] = []
    spans: list[Span] = []
    kept: dict[str, str] = {}
    length = end = 0
    for slot in _SLOT.finditer(template):
        maker: Callable[[], str] = getattr(values, slot[1])
        value = kept.setdefault(slot[0], maker()) if slot[2] else maker()
        before = template[end : slot.start()]
        start = length + len(before)
        pieces += [before, value]
        length = start + len(value)
        spans.append(Span(start, length, _TYPES[slot[1]], 1.0))
        end = slot.end()
    return "".join([*pieces, template[end:]]), tuple(spans)


def _luhn(digits: str) -> bool:
    values = [int(digit) for digit in digits]
    values[-2::-2] = [value * 2 - 9 if value > 4 else value * 2 for value in values[-2::-2]]
    return sum(values) % 10 == 0


def _han(number: int) -> str:
    tens, ones = divmod(number, 10)
    return ("" if tens == 0 else "十" if tens == 1 else _HAN[tens] + "十") + (
        _HAN[ones] if ones else ""
    )


def _han_year(year: int) -> str:
    return "".join(_HAN[int(digit)] for digit in str(year))
