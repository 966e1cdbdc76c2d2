"""Fixed word lists of the rondo-tiny corpus."""

from __future__ import annotations

_WORD_TEXT = """
    cat dog sun map cup hat pen box car bus key egg ice sea sky tea bag bed toy jam
    ant bee cow fox hen owl pig rat bat ape arm ear eye leg toe lip red tan one two
    tree fish bird lamp book door ship rain snow wind fire leaf rock sand star moon
    milk cake rice corn bean salt soup meat frog bear duck goat lion wolf deer crab
    hand foot nose knee ring coin rope boat sail nail wood gold iron silk wool farm
    road park city town home room wall roof desk sofa bell drum harp song word page
    apple bread chair table plant river ocean beach cloud storm light night house
    horse sheep mouse tiger zebra snake whale shark eagle goose lemon grape peach
    melon berry onion sugar honey cream juice water glass plate spoon knife shirt
    dress shoes glove scarf brush broom paper pencil stone brick metal steel paint
    green black white brown music piano flute train truck plane wheel motor clock
    watch phone radio robot world earth field grass flower garden forest desert
    island valley canyon winter summer spring autumn monday friday planet rocket
    comet galaxy orange banana cherry tomato potato carrot pepper butter cheese
    coffee dinner cookie pillow blanket window mirror candle basket bottle bucket
    hammer ladder needle button jacket pocket ribbon castle bridge tunnel school
    museum market office library kitchen bedroom teacher student doctor farmer
    sailor pilot artist dancer singer writer driver baker friend family mother
    father sister brother puppy kitten rabbit monkey donkey turtle lizard spider
    beetle parrot pigeon falcon salmon dolphin penguin giraffe elephant kangaroo
    camel panda koala otter badger walrus hamster chicken rooster ladybug cricket
    math logic number letter circle square triangle pattern puzzle answer question
    story poem novel chapter title author reader writing drawing picture camera
    mountain thunder rainbow sunrise sunset shadow morning evening midnight holiday
    engine server cable screen keyboard printer network signal memory model token
    silver copper bronze diamond crystal marble cotton leather rubber plastic
    happy quick quiet brave clever gentle bright simple strong lucky funny sunny
    walk jump swim climb read write sing dance build cook laugh dream travel learn
    anchor harbor lantern compass feather blossom meadow orchard village cottage
    violin trumpet guitar concert theater circus ticket wallet saddle helmet
"""
WORDS: tuple[str, ...] = tuple(_WORD_TEXT.split())

CATEGORIES: dict[str, tuple[str, ...]] = {
    "colors": ("red", "blue", "green", "yellow", "orange", "purple", "black", "white"),
    "animals": ("cat", "dog", "horse", "cow", "sheep", "lion", "tiger", "bear"),
    "fruits": ("apple", "banana", "cherry", "grape", "lemon", "mango", "peach", "pear"),
    "vegetables": ("carrot", "potato", "tomato", "onion", "pea", "bean", "corn", "leek"),
    "planets": ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"),
    "birds": ("robin", "eagle", "owl", "duck", "swan", "crow", "dove", "parrot"),
    "trees": ("oak", "pine", "maple", "birch", "willow", "elm", "cedar", "ash"),
    "metals": ("iron", "gold", "silver", "copper", "tin", "zinc", "lead", "nickel"),
    "shapes": ("circle", "square", "triangle", "oval", "star", "cube", "cone", "sphere"),
    "sports": ("soccer", "tennis", "golf", "rugby", "hockey", "boxing", "rowing", "skiing"),
}

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

SEASONS = ("spring", "summer", "autumn", "winter")

NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")

ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
)

PLACES = (
    "France",
    "Japan",
    "Brazil",
    "Kenya",
    "Canada",
    "Norway",
    "Spain",
    "Egypt",
    "India",
    "Peru",
    "Paris",
    "London",
    "Berlin",
    "Rome",
    "Tokyo",
    "Oslo",
)

UNICODE_RANGES: tuple[tuple[int, int], ...] = (
    (0x00C0, 0x00FF),  # Latin letters with accents
    (0x0391, 0x03A1),  # Greek capitals
    (0x03B1, 0x03C9),  # Greek small letters
    (0x0410, 0x044F),  # Cyrillic
    (0x05D0, 0x05EA),  # Hebrew
    (0x0627, 0x063A),  # Arabic
    (0x0905, 0x0939),  # Devanagari
    (0x3042, 0x3093),  # Hiragana
    (0x30A2, 0x30F3),  # Katakana
    (0x4E00, 0x9FA5),  # CJK ideographs
    (0xAC00, 0xD7A3),  # Hangul
    (0x1F300, 0x1F5FF),  # pictographs
    (0x1F600, 0x1F64F),  # faces
    (0x1F680, 0x1F6C5),  # transport signs
)
