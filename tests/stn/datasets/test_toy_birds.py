"""Drawn birds: their parts are where the lists say, and they are the same everywhere."""

from stn.datasets.bird_lists import PARTS, read_lists


def test_drawn_birds_have_their_parts_where_they_are_said_to_be(drawn):
    from PIL import Image

    lists = read_lists(drawn)
    for i in range(0, 144, 7):
        image = Image.open(lists.files[i]).convert("RGB")
        where = {part: lists.parts[i, k] for k, part in enumerate(PARTS)}
        eye = where["left eye"] if where["left eye"][2] else where["right eye"]
        assert (where["left eye"][2] + where["right eye"][2]) == 1
        assert max(image.getpixel((int(eye[0]), int(eye[1])))) < 70  # black
        left, top, width, height = lists.boxes[i].tolist()
        for x, y, visible in lists.parts[i].tolist():
            assert not visible or (left <= x <= left + width and top <= y <= top + height)
