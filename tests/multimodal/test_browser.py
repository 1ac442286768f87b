"""The browser's operator: what is seen is what is touched."""

from paragone.multimodal.agent.actions import Action

PAGE = """<body style="margin:0"><button style="position:absolute;left:10px;top:20px;width:60px;
height:30px;background:#f00;border:0" onclick="this.style.background='#00f'">x</button>
<input id=i style="position:absolute;left:100px;top:20px">"""


def test_click_type_and_see(browser):
    browser.open(PAGE)
    operator = browser.operator()
    assert operator.screenshot().pixels[25, 15].tolist() == [255, 0, 0]
    operator.execute(Action("click", {"start_box": (12, 22)}))
    assert operator.screenshot().pixels[25, 15].tolist() == [0, 0, 255]
    operator.execute(Action("click", {"start_box": (110, 30)}))
    operator.execute(Action("type", {"content": "héllo "}))
    assert browser.evaluate("i.value") == "héllo "
