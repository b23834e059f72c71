"""The village: its people, trades, places, things, and what follows from what.

Tables only. The rules of the world are in ``Theme``: who feels X goes to place P, where trade T gives object
O, uses it by verb U, and then Z holds. Stories, encyclopedia and HellaSwag items are all read off these rows.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """One need and its consequence. ``use`` and ``outcome`` continue a sentence about he or she."""

    feeling: str
    place: str
    trade: str
    made: str  # past participle: what the trade has done with the object
    objects: tuple[str, ...]
    use: str
    outcome: str


@dataclass(frozen=True)
class World:
    """Everything a story is drawn from. A smaller World gives a smaller language with the same rules."""

    women: tuple[str, ...]
    men: tuple[str, ...]
    themes: tuple[Theme, ...]
    weather: tuple[tuple[str, str], ...]  # (weather, what the path is like then)
    daytimes: tuple[tuple[str, str], ...]  # (time of day, what comes after it)
    moves: tuple[str, ...]
    routes: tuple[str, ...]
    animals: tuple[tuple[str, str], ...]  # (animal, what it does)
    colours: tuple[str, ...]
    qualities: tuple[str, ...]
    numbers: tuple[str, ...]
    relatives_f: tuple[str, ...]
    relatives_m: tuple[str, ...]
    manners: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _rows(text: str) -> list[list[str]]:
    return [[field.strip() for field in line.split("|")] for line in text.strip().splitlines()]


def _theme(row: list[str]) -> Theme:
    feeling, place, trade, made, objects, use, outcome = row
    return Theme(feeling, place, trade, made, tuple(o.strip() for o in objects.split(",")), use, outcome)


# feeling | place | trade | made | objects | use | outcome
_THEMES = """
hungry | bakery | baker | baked | loaf, bun, pie, roll, cake, tart | ate | was full
thirsty | dairy | milkmaid | filled | cup, mug, jug, flask, bottle, goblet | drank from | was not thirsty any more
cold | sheepfold | shepherd | knitted | blanket, cloak, scarf, shawl, coat, mitten | wrapped up in | was warm again
ill | infirmary | healer | mixed | potion, syrup, herb, salve, tonic, powder | swallowed | felt well again
barefoot | tannery | cobbler | stitched | boot, shoe, slipper, sandal, clog, gaiter | laced up | walked without stumbling
bored | library | librarian | chosen | book, map, poem, tale, atlas, almanac | read | forgot the time
sad | dance hall | fiddler | tuned | flute, drum, harp, fiddle, horn, whistle | played | sang all evening
dirty | bathhouse | washer | warmed | soap, sponge, towel, brush, basin, tub | washed with | was clean
tired | inn | innkeeper | prepared | bed, bench, pillow, hammock, mattress, cot | slept on | woke up rested
late | stable | groom | saddled | horse, pony, mule, donkey, camel, mare | rode | arrived in time
lost | tower | watchman | lit | lantern, torch, candle, lamp, beacon, match | held up | found the way home
soaked | laundry | laundress | ironed | shirt, dress, apron, sock, skirt, vest | changed into | was dry again
lonely | kennel | keeper | raised | puppy, kitten, lamb, rabbit, parrot, duckling | hugged | had a friend
poor | market | merchant | packed | basket, ribbon, rug, vase, carpet, spice | sold | had money again
angry | garden | gardener | planted | rose, lily, tulip, daisy, violet, poppy | smelled | was calm
curious | observatory | stargazer | polished | telescope, lens, globe, chart, sundial, prism | studied | learned a secret
worried | chapel | priest | copied | prayer, hymn, psalm, blessing, sermon, verse | listened to | felt peace
hot | river | ferryman | carved | raft, canoe, boat, skiff, barge, paddle | rowed with | cooled down
homesick | post office | postman | carried | parcel, postcard, envelope, note, letter, telegram | opened | smiled at the news
ragged | sewing room | seamstress | sorted | needle, thread, button, patch, pin, thimble | sewed with | had no more holes
hurt | hospital | nurse | cut | bandage, splint, plaster, sling, gauze, crutch | tied on | felt no pain
locked out | forge | smith | forged | hammer, hinge, chain, key, latch, crowbar | knocked with | opened the gate
out of wood | sawmill | woodcutter | sharpened | axe, saw, hatchet, wedge, plane, chisel | chopped with | had a big fire
out of flour | mill | miller | weighed | wheat, barley, rye, corn, millet, rice | ground | had enough flour
out of fish | pier | fisher | knotted | net, rod, hook, line, trap, float | fished with | caught a trout
afraid | castle | guard | oiled | shield, sword, helmet, bow, spear, armor | lifted | was brave
forgetful | school | teacher | borrowed | slate, chalk, pen, pencil, notebook, ruler | wrote with | remembered the lesson
greedy | apiary | beekeeper | gathered | honey, wax, honeycomb, nectar, mead, pollen | tasted | wanted no more
out of eggs | henhouse | farmer | fed | hen, goose, duck, quail, turkey, swan | stroked | made a big breakfast
out of fruit | orchard | picker | grown | apple, pear, plum, cherry, peach, fig | picked | filled the cellar
out of vegetables | field | ploughman | watered | potato, carrot, onion, turnip, cabbage, pumpkin | dug up | cooked a stew
untidy | barn | thatcher | bound | broom, mop, duster, rag, pail, comb | swept with | had a tidy house
invited to a wedding | palace | jeweler | engraved | ring, necklace, brooch, bracelet, crown, locket | wore | looked splendid
out of dishes | pottery | potter | glazed | pot, plate, jar, pitcher, dish, bowl | washed up | served the soup
shy | theatre | actor | painted | mask, costume, script, wig, puppet, curtain | performed with | made everyone laugh
stuck | bridge | mason | fixed | ladder, rope, railing, stair, plank, pole | climbed | reached the other side
playful | fair | toymaker | wound | doll, ball, kite, top, marble, hoop | juggled | laughed until sunset
cheated | court | judge | sealed | law, contract, will, ruling, treaty, oath | signed | kept the peace
in debt | bank | banker | locked | coin, purse, ledger, receipt, bill, chest | counted | paid everything back
ready to travel | harbor | sailor | tarred | ship, sail, anchor, rudder, mast, oar | steered with | crossed the sea
"""

_WOMEN = """Ada Agnes Alice Alma Amelia Anna Astrid Beth Bella Bridget Cara Celia Clara Cora Daphne Della Dora Edith
Elena Elsa Emma Erica Esther Eva Fanny Fiona Flora Freya Gemma Gerda Grace Greta Hanna Hazel Helen Hilda Ida Ingrid
Irene Iris Ivy Jane Jill Joan Judith Julia June Kate Kira Klara Laura Leah Lena Lily Linda Lotte Lucy Mabel Mara
Martha Mary Maud Mina Mira Molly Nadia Nell Nina Nora Olga Olive Paula Pearl Petra Rita Rosa Ruth Sally Sara
Selma Sonia Stella Susan Tess Tilda Una Vera Viola Wanda Wilma Zara Zelda Zoe"""

_MEN = """Aaron Adam Albert Alfred Andrew Anton Arthur Basil Ben Boris Bruno Carl Caspar Cecil Cyril Daniel David Dennis
Dirk Edgar Edwin Emil Eric Ernest Felix Finn Frank Fritz George Gilbert Gordon Gregor Gustav Hans Harold Harry Henry
Herman Hugo Igor Ivan Jacob James Jasper Jim Joel John Jonas Joseph Karl Kurt Lars Leo Leon Levi Louis Lucas Magnus
Mark Martin Max Milo Moritz Nathan Ned Nils Noah Oliver Oscar Otto Owen Paul Peter Philip Ralph Ray Robert Roland Ross
Samuel Simon Stefan Sven Ted Theo Thomas Tim Tobias Tom Tristan Victor Viktor Walter Wilfred Will Yuri"""

_WEATHER = """
rainy | muddy
snowy | white
icy | slippery
sunny | dry
windy | full of leaves
foggy | hard to see
stormy | flooded
dusty | brown
frosty | frozen
mild | busy
"""

_DAYTIMES = """
morning | noon
noon | afternoon
afternoon | evening
evening | night
night | morning
"""

_ANIMALS = """
fox | ran into a den
deer | jumped over a fence
owl | blinked on a branch
hare | hid in the grass
frog | croaked in a pond
crow | pecked at a seed
wolf | howled at the moon
badger | rolled in the mud
otter | dived for a mussel
squirrel | buried a nut
hedgehog | curled into a spiny knot
stork | stood on a chimney
snail | crept up a wall
bee | buzzed around a flower
spider | spun a web
lizard | lay on a warm rock
mouse | nibbled at a crumb
bat | hung upside down
beetle | shone in the light
goat | chewed on a hat
sheep | bleated for a friend
cow | chewed the grass slowly
bear | scratched a tree
swallow | built a nest
"""

_ROUTES = (
    "along the lake",
    "through the forest",
    "over the hill",
    "past the windmill",
    "down the lane",
    "across the meadow",
    "up the street",
    "by the old oak",
    "around the marsh",
    "behind the church",
    "through the valley",
    "under the willow",
    "past the graveyard",
    "along the canal",
    "over the stream",
    "beyond the quarry",
    "through the vineyard",
    "past the fountain",
    "along the cliff",
    "through the tunnel",
    "by the town wall",
    "between the houses",
    "across the square",
    "near the waterfall",
)

VILLAGE = World(
    women=_words(_WOMEN),
    men=_words(_MEN),
    themes=tuple(_theme(row) for row in _rows(_THEMES)),
    weather=tuple((a, b) for a, b in _rows(_WEATHER)),
    daytimes=tuple((a, b) for a, b in _rows(_DAYTIMES)),
    moves=_words(
        "walked hurried ran strolled marched wandered limped skipped rushed trotted crawled tiptoed"
    ),
    routes=_ROUTES,
    animals=tuple((a, b) for a, b in _rows(_ANIMALS)),
    colours=_words(
        "red blue green yellow black white brown grey pink purple maroon golden silver violet-blue crimson "
        "scarlet beige turquoise copper teal"
    ),
    qualities=_words(
        "new old fine plain heavy light strong pretty strange simple lovely rough smooth tiny large little "
        "huge narrow round crooked famous cheap precious sturdy delicate rare modest noble spare secret"
    ),
    numbers=_words("two three four five six seven eight nine ten eleven twelve twenty"),
    relatives_f=_words("mother sister aunt grandmother cousin daughter niece godmother"),
    relatives_m=_words("father brother uncle grandfather nephew son stepson godfather"),
    manners=_words(
        "slowly quickly quietly gladly carefully proudly eagerly gently boldly calmly cheerfully secretly "
        "patiently clumsily bravely politely"
    ),
)

TRADES = tuple(theme.trade for theme in VILLAGE.themes)
PLACES = tuple(theme.place for theme in VILLAGE.themes)
OBJECTS = tuple(thing for theme in VILLAGE.themes for thing in theme.objects)
PEOPLE = VILLAGE.women + VILLAGE.men
