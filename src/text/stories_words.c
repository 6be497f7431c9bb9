/* The words of stories.h with their properties: who there is, what they have, where they go, and how they speak. */
#include "text/stories.h"

/* ---- people ----------------------------------------------------------------------------------------------------------------- */

static const char *const girls[] = {
    "Lily", "Mia", "Anna", "Lucy", "Emma", "Sara", "Rosa", "Nora", "Ella", "Amy", "Zoe", "Kate", "Ruby", "Maya", "Clara", "Ivy", "Daisy", "Molly", "Grace", "Eva", "Sophie", "Jane",
    "Alice", "Lena", "Tara", "Nina", "Penny", "Rachel", "Hannah", "Julia", "Greta", "Olga", "Priya", "Leila", "Yuki", "Amara", "Fatima", "Ines", "Carmen", "Freya", "Astrid", "Wendy", "Bella",
    "Tess", "Holly", "Poppy", "Stella", "Violet", "Hazel", "Iris", "June", "Mabel", "Edith", "Agnes", "Martha", "Dora", "Flora", "Nadia", "Sonia", "Elsa", "Heidi", "Ingrid", "Bridget",
    "Maeve", "Niamh", "Aisha", "Zara", "Farah", "Samira", "Mei", "Hana", "Keiko", "Anjali", "Meera", "Lakshmi", "Chloe", "Camille", "Odette", "Margot", "Bianca", "Chiara", "Paloma",
    "Lucia", "Marisol", "Esme", "Fiona", "Moira", "Isla", "Skye", "Willow", "Juniper", "Marigold", "Beatrice", "Matilda", "Winifred", "Harriet", "Josephine", "Cordelia", "Ophelia", "Thea",
};
static const char *const boys[] = {
    "Tom", "Ben", "Max", "Sam", "Leo", "Jack", "Tim", "Finn", "Noah", "Dan", "Peter", "Oscar", "Will", "Adam", "Hugo", "Luke", "Eli", "Owen", "Jonas", "Henry", "Paul", "Carl",
    "Theo", "Alex", "Nick", "Simon", "Felix", "Toby", "George", "David", "Martin", "Emil", "Anton", "Ravi", "Omar", "Ali", "Kenji", "Kofi", "Mateo", "Diego", "Pablo", "Lars", "Sven",
    "Hans", "Otto", "Walter", "Albert", "Arthur", "Ralph", "Edgar", "Ivan", "Boris", "Yusuf", "Hassan", "Karim", "Tariq", "Samir", "Arjun", "Vikram", "Rohan", "Kiran", "Hiro", "Taro", "Wei",
    "Jin", "Minh", "Kwame", "Jabari", "Tendai", "Pierre", "Louis", "Marcel", "Bruno", "Enzo", "Marco", "Luca", "Nico", "Rafael", "Javier", "Andre", "Callum", "Angus", "Duncan", "Rory",
    "Liam", "Declan", "Rowan", "Jasper", "Silas", "Amos", "Caleb", "Gideon", "Barnaby", "Rupert", "Wilfred", "Bertram", "Cedric", "Percival", "Quentin", "Magnus",
};
static const char *const petnames[] = {
    "Pip", "Dot", "Buddy", "Spot", "Bo", "Milo", "Coco", "Button", "Pepper", "Fuzzy", "Teddy", "Rusty", "Nibbles", "Sunny", "Biscuit", "Bramble", "Shadow", "Pebble", "Tansy", "Waffles",
    "Mossy", "Clover", "Ginger", "Cocoa", "Snowy", "Patch", "Domino", "Whiskers", "Twig", "Acorn", "Hopper", "Muffin", "Pickle", "Noodle", "Bubbles", "Dumpling", "Sprout", "Thistle", "Flint",
    "Bandit", "Marble", "Puddle", "Sooty", "Velvet", "Tuffet", "Dusty", "Scout", "Ziggy", "Tumble", "Honey", "Maple", "Nutmeg", "Fern", "Juno", "Basil", "Saffron", "Truffle", "Quill",
};
static const char *const parents[] = {
    "f:mother|Mom", "m:father|Dad", "f:grandmother|Grandma", "m:grandfather|Grandpa", "f:aunt|Auntie", "m:uncle|Uncle Joe",
};
static const char *const siblings[] = { "m:little brother|Billy", "f:little sister|Suzy", "m:big brother|Robert", "f:big sister|Helen", "m:baby brother|Bobby", "f:cousin|Polly" };
static const char *const elders[] = { "m:old man", "f:old woman", "f:kind woman", "m:tall man", "f:old lady", "m:old sailor", "f:shepherd", "m:old gardener", "f:nurse", "m:hermit", "f:widow", "m:monk" };
/* workers: where they work, tool, what they made, what they give away, what one can learn from them */
static const char *const workers[] = {
    "baker|in the bakery|a long wooden spoon|baked bread and buns|a warm bun|knead dough", "farmer|on the farm|a big straw hat|grew corn and beans|a basket of eggs|milk a cow",
    "m:fisherman|by the harbor|an old net|caught silver fish|a shiny shell|tie a knot", "teacher|at the school|a piece of chalk|taught the children to read|a gold star|write neat letters",
    "gardener|in the park|a green watering can|planted tulips and roses|a yellow rose|plant a seed", "tailor|in a small shop|a silver thimble|sewed coats and shirts|a bright button|sew a straight line",
    "carpenter|in a dusty workshop|a saw and a hammer|made tables and chairs|a little wooden bird|hammer a nail", "painter|in a room full of light|a box of brushes|painted boats and hills|a tube of blue paint|mix colors",
    "m:postman|in the village|a heavy bag|carried letters to every door|a pretty stamp|read an address", "shoemaker|in a narrow street|a tiny hammer|made boots and sandals|a pair of laces|polish leather",
    "blacksmith|at the forge|a glowing fire|made horseshoes and hooks|a lucky horseshoe|bend hot iron", "miller|in the windmill|sacks of flour|turned grain into flour|a bag of flour|lift a sack",
    "clockmaker|in a shop full of clocks|a pair of tweezers|mended clocks and watches|a brass key|wind a clock", "potter|in a shed by the river|a spinning wheel|made bowls out of clay|a blue bowl|shape wet clay",
    "cook|in the palace kitchen|a tall white hat|cooked soups and stews|a bowl of soup|chop an onion", "captain|on a big ship|a brass telescope|sailed across the sea|an old map|read the stars",
    "librarian|in the library|a pair of round glasses|lent books to everyone|a picture book|find a book on a shelf", "weaver|in a cottage|a wooden loom|wove blankets of wool|a soft scarf|weave a pattern",
    "beekeeper|near the orchard|a hat with a veil|kept bees in white hives|a jar of honey|move slowly near bees", "doctor|in a white house|a small black bag|helped sick people|a clean bandage|listen to a heart",
    "glassblower|in a hot workshop|a long iron pipe|blew bottles and vases|a glass marble|blow a bubble of glass", "bookbinder|in a quiet attic|a pot of glue|mended torn books|a tiny notebook|fold paper",
    "lighthouse keeper|in the lighthouse|a bright lamp|showed ships the way|a spare lantern|light the lamp", "toymaker|in a shop with a green door|a drawer of springs|made puppets and drums|a spinning top|carve a puppet",
    "ferryman|by the wide river|a long pole|rowed people across the water|a ride in the boat|steer a boat", "chimney sweep|on the roofs of the town|a round brush|cleaned chimneys|a lump of coal|climb a ladder",
    "stonecutter|at the quarry|a chisel|cut blocks of stone|a smooth stone|split a rock", "cobbler|at the corner|a bench|mended old shoes|a piece of leather|sew a sole",
    "juggler|at the fair|five colored balls|threw balls in the air|a juggling ball|juggle two apples", "astronomer|in the tower|a huge telescope|counted stars|a map of the sky|find the north star",
};
static const char *const woodcutters[] = { "woodcutter", "carpenter", "farmer", "builder", "lumberjack", "sawyer", "road worker" };
static const char *const rulers[] = { "m:king", "f:queen", "m:prince", "f:princess", "m:emperor", "f:duchess", "m:duke", "f:empress" };

/* ---- animals: home, does, eats, said (sound), trait ------------------------------------------------------------------------- */

static const char *const animals[] = {
    "rabbit|under a bush|hop|carrots|thumped", "fox|in a den|run|berries|barked", "bear|in a cave|climb|honey|growled", "mouse|in a hole|nibble|cheese|squeaked", "squirrel|in a tree|climb|nuts|chattered",
    "frog|by a pond|jump|flies|croaked", "hedgehog|under a pile of leaves|roll|apples|snuffled", "owl|in a hollow tree|fly|moths|hooted", "duck|by a pond|swim|bread|quacked", "cat|in a barn|jump|fish|meowed",
    "turtle|near a stream|swim|lettuce|hissed", "deer|in the forest|run|grass|snorted", "mole|under the ground|dig|worms|grunted", "beaver|by the river|swim|bark|whistled", "badger|in a burrow|dig|roots|grunted",
    "raccoon|in an old log|climb|corn|chirped", "otter|on the river bank|swim|clams|whistled", "lamb|in a green field|skip|clover|bleated", "piglet|in a muddy yard|roll|turnips|squealed", "wolf|on a rocky hill|run|plums|howled",
    "monkey|in a tall tree|swing|bananas|chattered", "elephant|near a lake|splash|melons|trumpeted", "lion|on a warm rock|leap|stew|roared", "goat|on a steep hill|climb|thistles|bleated", "pony|in a stable|gallop|oats|neighed",
    "crow|on a fence|fly|seeds|cawed", "goose|by a mill|swim|barley|honked", "penguin|on the ice|slide|shrimp|squawked", "seal|on a rock by the sea|dive|sardines|barked", "camel|at the edge of the desert|walk|dates|snorted",
    "kangaroo|on a wide plain|jump|grass|grunted", "panda|in a bamboo forest|climb|bamboo|squeaked", "koala|in a gum tree|climb|leaves|grunted", "giraffe|near the tall trees|run|leaves|hummed", "zebra|on the plain|gallop|grass|snorted",
    "hippo|in a warm river|splash|reeds|grunted", "lizard|on a sunny wall|climb|beetles|hissed", "snail|on a cabbage|crawl|lettuce|whispered", "hamster|in a nest of straw|dig|seeds|squeaked", "donkey|in an old stable|trot|hay|brayed",
    "skunk|under the porch|dig|mushrooms|hissed", "chipmunk|between two stones|climb|acorns|chattered", "porcupine|in a hollow log|climb|twigs|grunted", "weasel|in a stone wall|run|eggs|hissed", "moose|near a swamp|wade|water lilies|grunted",
    "parrot|in a palm tree|fly|mangoes|squawked", "lynx|in the snowy woods|leap|soup|purred", "dormouse|in a nest of grass|climb|hazelnuts|squeaked", "tortoise|in a dry garden|walk|dandelions|hissed", "newt|in a ditch|swim|gnats|whispered",
    "armadillo|under a cactus|roll|ants|grunted", "sloth|high in the jungle|hang|leaves|sighed", "meerkat|in a sandy hole|dig|beetles|chirped", "llama|on a high mountain|walk|hay|hummed", "walrus|on the cold shore|swim|clams|bellowed",
    "chameleon|on a branch|climb|crickets|hissed", "platypus|in a muddy creek|swim|snails|growled", "ferret|in a basket|run|soup|squeaked", "shrew|under a root|run|worms|squeaked", "ibex|among the cliffs|climb|moss|bleated",
};
static const char *const pets[] = {
    "n:dog|barked|wagged @1.his tail|in a basket", "n:puppy|barked|wagged @1.his tail|on a rug", "n:cat|meowed|purred softly|on a pillow", "n:kitten|meowed|purred softly|in a box", "n:rabbit|thumped its foot|wiggled its nose|in a hutch",
    "n:pony|neighed|tossed its head|in the stable", "n:duckling|peeped|flapped its tiny wings|in a crate of straw", "n:parrot|squawked|bobbed its head|in a cage", "n:hamster|squeaked|ran in its wheel|in a cage",
    "n:lamb|bleated|skipped in a circle|in the barn", "n:goat|bleated|shook its beard|behind the house", "n:hen|clucked|fluffed its feathers|in the henhouse", "n:turtle|hissed|stretched its neck|in a tub", "n:donkey|brayed|flicked its ears|in the shed",
    "n:canary|chirped|hopped on its perch|in a cage", "n:guinea pig|squealed|wiggled its whiskers|in a hutch", "n:terrier|barked|spun in a circle|in a basket", "n:spaniel|barked|flapped its long ears|by the stove",
};
static const char *const small_pets[] = {
    "n:kitten|meowed|purred softly", "n:puppy|barked|wagged its tail", "n:duckling|peeped|flapped its tiny wings", "n:hamster|squeaked|wiggled its nose", "n:rabbit|thumped its foot|wiggled its nose", "n:guinea pig|squealed|wiggled its whiskers", "n:hedgehog|snuffled|rolled into a ball", "n:squirrel|chattered|flicked its tail",
};
static const char *const birds[] = { "n:robin", "n:sparrow", "n:bluebird", "n:swallow", "n:gull", "n:dove", "n:magpie", "n:thrush", "n:wren", "n:blackbird", "n:pigeon", "n:finch", "n:lark", "n:starling", "n:cuckoo", "n:nightingale", "n:heron", "n:swift", "n:kestrel", "n:puffin", "n:goldfinch", "n:oriole", "n:woodpecker", "n:kingfisher", "n:stork", "n:raven", "n:crane", "n:swan", "n:jay", "n:falcon" };
static const char *const seacreatures[] = { "crab|between two rocks", "seal|on a flat rock", "dolphin|in the deep bay", "whale|in the deep blue sea", "octopus|in a cave of coral", "starfish|on the sandy bottom", "sea turtle|near the beach", "seahorse|in the sea grass", "lobster|under a ledge",
    "squid|in the dark water", "eel|in an old pipe", "jellyfish|near the pier", "swordfish|far from the shore", "salmon|in the cold stream", "shrimp|in a tide pool", "manta ray|over the reef", "walrus|on the ice", "pelican|on a post" };
/* What one may see at a market or in an attic, and what it is. */
static const char *const wonders[] = {
    "lute|a guitar with a round back", "sextant|a tool that tells sailors where they are", "samovar|a tall kettle for tea", "barometer|a glass that knows when it will rain", "spinet|a piano for small rooms", "abacus|a frame with beads for counting", "globe|a map as round as a ball",
    "mortar|a bowl in which one grinds spices", "quiver|a bag for arrows", "tapestry|a picture made of thread", "gramophone|a box that plays old songs", "typewriter|a machine that prints letters", "weathercock|an iron bird that points to the wind", "anvil|a block on which iron is beaten",
    "sledge|a wagon for the snow", "zither|a flat harp", "kimono|a long robe with wide sleeves", "boomerang|a bent stick that flies back", "prism|a piece of glass that makes a rainbow", "monocle|a lens for one eye", "turban|a long cloth wound around the head", "gondola|a thin boat with a high nose", "totem|a post with carved faces",
    "parasol|an umbrella against the sun", "mosaic|a picture made of tiny stones", "sundial|a clock that needs no wheels", "fez|a red hat with a tassel", "loom|a frame on which cloth is made", "yoke|a beam that lies on the necks of oxen", "trowel|a little spade for the garden", "ladle|a big spoon for soup", "sieve|a bowl full of holes",
    "churn|a barrel in which cream becomes butter", "lyre|a harp that fits under an arm", "helmet|a hat made of iron", "stilt|a tall wooden leg", "metronome|a box that ticks for people who play music", "periscope|a tube that looks around corners", "didgeridoo|a long pipe with a deep voice", "origami crane|a bird made of folded paper",
    "thermometer|a tube that shows how warm it is", "saddle|a seat for a rider", "easel|a stand for a painting", "goblet|a cup for a king", "dulcimer|an instrument played with little hammers", "pagoda of jade|a tower carved out of green stone", "censer|a bowl from which sweet smoke rises", "kayak|a boat for one person", "canteen|a bottle for long walks",
};
static const char *const insects[] = { "bee", "ant", "ladybug", "butterfly", "beetle", "cricket", "grasshopper", "spider", "caterpillar", "firefly", "dragonfly", "moth", "snail", "worm", "bumblebee", "wasp", "centipede", "mantis", "hornet", "earwig", "silkworm", "weevil", "cicada", "locust", "termite", "mosquito" };
static const char *const farm_animals[] = { "n:cow|hay", "n:sheep|grass", "n:pig|turnips", "n:hen|corn", "n:horse|oats", "n:goat|clover", "n:goose|barley", "n:calf|milk", "n:donkey|straw", "n:rooster|seeds", "n:turkey|grain", "n:mule|carrots", "n:ox|hay", "n:duck|crumbs" };

/* ---- things ----------------------------------------------------------------------------------------------------------------- */

static const char *const colors[] = { "red", "blue", "green", "yellow", "white", "brown", "black", "pink", "orange", "purple", "gray", "golden", "silver", "violet", "turquoise", "scarlet", "crimson", "lilac", "indigo", "emerald", "amber", "ivory", "copper", "maroon", "beige", "teal", "magenta", "khaki", "bronze", "peach", "cobalt", "rose" };
static const char *const sizes[] = { "little", "small", "big", "tiny", "huge", "tall", "long", "round", "thin", "wide", "enormous", "narrow", "chubby", "giant", "slender" };
static const char *const traits[] = { "kind", "brave", "clever", "shy", "cheerful", "curious", "quiet", "gentle", "lively", "friendly", "careful", "honest", "patient", "playful", "busy", "polite", "merry", "dreamy", "thoughtful", "stubborn", "generous", "cautious", "bold", "sensible", "hopeful", "lazy", "messy", "forgetful", "nimble", "earnest", "inventive", "humble", "spirited", "graceful", "diligent", "mischievous", "tidy", "watchful", "adventurous", "bashful", "courageous", "studious", "witty", "tireless" };
static const char *const flaws[] = { "proud|bragged about everything", "greedy|never shared anything", "grumpy|never smiled at anyone", "selfish|kept everything for @1.himself", "rude|never said please or thank you", "bossy|told everyone what to do", "vain|looked in every mirror", "jealous|hated it when others won", "boastful|talked only about @1.himself", "stingy|counted every crumb" };
/* toys: does (past, with it), part that breaks */
static const char *const toys[] = {
    "ball|bounced it on the path|seam", "kite|flew it over the hill|string", "doll|rocked it to sleep|arm", "toy boat|floated it on the pond|mast", "teddy bear|hugged it every night|ear", "toy train|pulled it around the table|wheel", "drum|played it all morning|stick",
    "wagon|pulled it down the lane|axle", "spinning top|spun it on the floor|tip", "wooden horse|rode it around the room|leg", "puppet|made it dance|string", "scooter|rode it up and down the street|handle", "sled|rode it down the snowy hill|rope", "jump rope|jumped with it in the yard|handle",
    "toy truck|filled it with sand|door", "music box|listened to its song|lid", "whistle|blew it at breakfast|pea", "marble|rolled it across the floor|side", "balloon|carried it everywhere|string", "robot|made it walk across the rug|button", "yo-yo|swung it up and down|cord", "dollhouse|moved the tiny chairs about|roof",
    "hoop|rolled it along the road|rim", "toy plane|threw it across the yard|wing", "kaleidoscope|looked through it at the sun|lens", "tricycle|rode it to the gate|pedal", "jack-in-the-box|laughed when it jumped out|spring", "slingshot|aimed it at old cans|band", "rag doll|took it to bed|button",
};
/* small things one can lose: where it turned up */
static const char *const keepsakes[] = {
    "key|under the mat", "ring|in the flour jar", "hat|on the back of the old horse", "mitten|under the snowman", "book|behind the sofa", "button|between two stones", "coin|in the toe of a boot", "scarf|on a branch", "shoe|in the dog's bed", "watch|under the pillow",
    "p:glasses|on top of @1.his own head", "necklace|in a bird's nest", "pencil|behind @1.his ear", "bell|in the tall grass", "ribbon|on the cat's neck", "feather|inside a big book", "shell|at the bottom of the bag", "map|in the pocket of an old coat", "lantern|on a nail in the barn", "spoon|in the sugar bowl",
    "letter|between two pages", "purse|on the garden bench", "thimble|in the button box", "flute|under the bed", "whistle|in the hay", "brooch|in a bowl of apples", "compass|in the old boat", "umbrella|behind the door", "basket|beside the well", "medal|in a teapot", "locket|under a leaf", "recipe|inside a cookbook",
    "comb|in the bath", "ticket|in a hat", "kerchief|on the fence", "p:scissors|under the newspaper", "penknife|in the moss", "bookmark|under the rug", "tassel|in the cradle", "harmonica|in a drawer",
};
/* instruments: sound */
static const char *const instruments[] = { "drum|boom, boom, boom", "flute|toot, toot", "guitar|plink, plunk", "trumpet|ta-ra, ta-ra", "violin|squeak, squeak", "piano|ding, dong", "bell|ding, ding, ding", "harp|plink, plink", "fiddle|squeak, squeak", "horn|honk, honk", "banjo|twang, twang", "tuba|oom-pah, oom-pah", "xylophone|plink, plonk", "accordion|wheeze, wheeze", "ukulele|plink, plink", "cello|mmm, mmm", "tambourine|jingle, jingle", "clarinet|doo, doo", "bugle|toot, toot", "cymbal|crash, crash", "mandolin|plink, plunk", "oboe|hoo, hoo", "bassoon|boo, boo", "trombone|wah, wah", "bagpipe|waa, waa", "recorder|toot, toot", "kettledrum|boom, boom" };
static const char *const foods[] = {
    "cake", "u:soup", "pie", "u:bread", "p:cookies", "p:pancakes", "u:jam", "u:cheese", "sandwich", "p:noodles", "u:rice", "u:porridge", "p:muffins", "u:stew", "pizza", "u:pudding", "p:dumplings", "p:waffles", "u:popcorn", "u:toast", "omelet", "p:biscuits", "u:gingerbread", "tart",
    "p:pretzels", "u:custard", "u:spaghetti", "u:oatmeal", "p:crackers", "u:lasagna", "p:meatballs", "u:salad", "p:doughnuts", "u:fudge", "p:tacos", "casserole", "u:broth", "p:sausages", "u:marmalade", "p:scones", "u:shortbread", "p:fritters", "u:couscous", "u:risotto", "p:crumpets", "u:goulash", "p:croissants", "u:ravioli", "p:truffles", "u:macaroni", "p:kebabs", "u:chowder", "p:cupcakes", "u:sorbet", "p:pickles", "u:nougat"
};
static const char *const fruits[] = { "apple", "pear", "berry", "plum", "peach", "cherry", "orange", "strawberry", "banana", "melon", "lemon", "grape", "apricot", "blackberry", "fig", "raspberry", "mango", "blueberry", "coconut", "pineapple", "gooseberry", "pomegranate", "cranberry", "nectarine", "quince", "papaya", "kiwi", "mulberry", "tangerine", "grapefruit", "currant", "elderberry", "persimmon", "guava", "lychee", "date", "watermelon", "lime" };
static const char *const tree_fruits[] = { "apple", "pear", "plum", "peach", "cherry", "orange", "apricot", "fig", "lemon", "nectarine", "quince", "mango", "pomegranate", "olive" };
static const char *const ripe[] = { "sweet", "juicy", "red", "ripe", "soft", "tasty", "delicious", "fresh", "plump", "golden", "fragrant", "luscious" };
static const char *const vegetables[] = { "carrot", "potato", "pumpkin", "tomato", "bean", "onion", "cabbage", "turnip", "pea", "radish", "beet", "cucumber", "lettuce", "pepper", "leek", "squash", "cauliflower", "parsnip", "eggplant", "celery stalk", "artichoke", "zucchini", "mushroom", "fennel", "broccoli stalk", "sweet potato", "asparagus tip", "chestnut", "rutabaga", "gourd" };
static const char *const flowers[] = { "rose", "daisy", "tulip", "sunflower", "violet", "lily", "daffodil", "poppy", "bluebell", "buttercup", "pansy", "marigold", "snowdrop", "orchid", "dandelion", "iris", "crocus", "primrose", "lavender", "hyacinth", "peony", "foxglove", "geranium", "lupine", "cornflower", "camellia", "magnolia", "dahlia", "anemone", "carnation", "gardenia", "begonia", "aster", "zinnia", "freesia" };
static const char *const trees[] = { "oak", "apple tree", "willow", "pine", "birch", "maple", "cherry tree", "elm", "chestnut tree", "fir", "beech", "walnut tree", "cedar", "poplar", "ash", "pear tree", "linden", "spruce", "hazel", "sycamore", "palm tree", "fig tree", "olive tree", "larch", "alder", "acacia", "mulberry tree", "magnolia tree", "juniper tree", "hawthorn", "eucalyptus", "plane tree", "rowan" };
static const char *const clothes[] = { "coat", "hat", "scarf", "sweater", "dress", "p:boots", "p:gloves", "cap", "p:mittens", "shirt", "p:socks", "cloak", "p:slippers", "vest", "apron", "jacket", "shawl", "p:pajamas", "p:trousers", "raincoat", "p:sandals", "bonnet", "p:overalls", "waistcoat", "poncho", "beret", "kilt", "tunic", "p:clogs", "p:stockings", "cardigan", "blouse", "p:suspenders", "cape", "robe", "nightgown" };
static const char *const containers[] = { "box", "basket", "bag", "jar", "bucket", "bowl", "chest", "drawer", "sack", "pot", "cup", "pocket", "barrel", "tin", "trunk", "crate", "suitcase", "cupboard", "wheelbarrow", "vase", "pail", "satchel", "teapot", "casket", "jug", "hamper", "canister", "urn", "kettle", "thermos", "knapsack", "coffer", "tub", "flask", "birdcage" };
static const char *const materials[] = { "wood", "paper", "wool", "clay", "stone", "glass", "straw", "leather", "tin", "silk", "iron", "cloth", "felt", "cardboard", "brass", "velvet", "bamboo", "wax", "copper", "linen", "porcelain", "marble", "canvas" };
static const char *const gifts[] = { "book", "kite", "scarf", "cake", "drum", "p:flowers", "toy boat", "hat", "puzzle", "doll", "music box", "p:mittens", "lamp", "necklace", "basket of fruit", "picture frame", "jar of honey", "box of paints", "teapot", "blanket", "bird feeder", "p:slippers", "telescope", "cushion", "calendar", "magnifying glass", "jigsaw puzzle", "diary", "snow globe", "wind chime", "lantern", "hairbrush", "p:castanets", "bracelet", "chessboard", "fountain pen", "p:binoculars", "rocking horse", "sketchbook", "toolbox", "hourglass", "weather vane", "globe" };
/* things to build: of, with, use when it is done */
static const char *const buildings[] = {
    "treehouse|boards and ropes|in the old oak|sat high above the ground and looked at the whole village", "birdhouse|six small boards|on a post|watched a pair of birds move in", "raft|logs and strong rope|by the river|floated down the slow water", "snowman|three big balls of snow|in the yard|gave it a carrot nose and a warm scarf",
    "sandcastle|wet sand and shells|on the beach|put a flag on the tallest tower", "bridge|planks and nails|over the stream|walked across without getting wet", "kite|paper and sticks|in the kitchen|ran until it rose into the sky", "fort|pillows and blankets|in the bedroom|crawled inside with a lamp",
    "boat|old boards and tar|in the shed|rowed it around the pond", "scarecrow|straw and an old coat|in the field|laughed when the crows flew off", "wagon|a crate and four wheels|behind the house|rode it down the hill", "swing|a rope and a plank|under the apple tree|swung up to the leaves",
    "henhouse|wire and boards|in the yard|counted six hens on their new perch", "windmill|sticks and paper|on the hill|watched its arms turn and turn", "igloo|blocks of snow|in the field|drank hot cocoa inside", "bench|an old door and two logs|in the garden|sat in the sun together",
    "puppet theater|a big box and red cloth|in the hall|gave a show for all the neighbors", "dam|stones and mud|in the creek|sailed leaf boats on the new pool", "lantern|paper and wire|in the attic|carried it through the dark garden", "telescope|two lenses and a tube|on the balcony|saw the mountains of the moon",
    "bookshelf|pine boards|in the hall|filled it with picture books", "catapult|spoons and string|in the yard|threw a potato over the fence", "sundial|a stick and twelve stones|in the meadow|told the time by a shadow", "hammock|rope and canvas|between two birches|swayed in the warm wind",
};

/* ---- places: at, to, sight -------------------------------------------------------------------------------------------------- */

static const char *const places[] = {
    "in the garden|to the garden|bees hummed over the flowers", "in the park|to the park|children played on the grass", "in the forest|into the forest|tall trees stood close together", "by the river|to the river|the water ran over smooth stones", "at the beach|to the beach|white waves rolled over the sand", "on the hill|up the hill|the wind moved the long grass",
    "in the meadow|to the meadow|daisies grew everywhere", "by the pond|to the pond|frogs sat on green leaves", "at the market|to the market|people sold apples, fish and cheese", "in the orchard|to the orchard|red apples hung on the branches", "near the old mill|to the old mill|the big wheel turned slowly", "at the farm|to the farm|hens walked around the yard",
    "on the playground|to the playground|the swings moved in the wind", "by the lake|to the lake|a boat rocked on the water", "at the harbor|to the harbor|ships came in with the tide", "in the village square|to the village square|a fountain splashed in the sun", "at the edge of the swamp|to the edge of the swamp|dragonflies flew over the reeds", "on the mountain|up the mountain|the air was cold and clear",
    "near the waterfall|to the waterfall|the water fell like silver thread", "in the valley|into the valley|a small stream shone between the fields", "at the train station|to the train station|an engine puffed and hissed", "in the vineyard|to the vineyard|grapes grew in long rows", "at the old castle|to the old castle|ivy covered the broken walls", "on the island|to the island|gulls cried above the rocks",
    "in the greenhouse|to the greenhouse|warm drops fell from the glass roof", "at the fair|to the fair|a merry-go-round played a tune", "in the bamboo grove|to the bamboo grove|thin green stems clicked in the wind", "in the quarry|to the quarry|gray stones lay in heaps", "at the museum|to the museum|old bones stood behind glass", "on the pier|to the pier|ropes creaked against the posts",
};
static const char *const homes[] = { "in a small house", "in a little village", "near the sea", "in a big town", "on a farm", "at the edge of the forest", "in a yellow house", "near a river", "on a quiet street", "at the foot of a mountain", "in a cottage with a red roof", "above a bakery", "in a tall apartment house", "on a houseboat", "beside a windmill", "in a valley full of sheep", "next to the railway", "on a small island", "near the harbor", "in a tent at the circus", "behind the school", "at the end of a lane" };
static const char *const rooms[] = { "kitchen", "bedroom", "hall", "bathroom", "cellar", "attic", "living room", "garage", "pantry", "laundry", "nursery", "study", "workshop", "shed" };

/* ---- time and weather: sentence, after it ----------------------------------------------------------------------------------- */

static const char *const nice_weather[] = { "The sun was shining", "The sky was blue", "It was a warm day", "A soft wind blew", "The air smelled of flowers", "It was a bright morning", "Birds sang in the trees", "White clouds sailed by", "It was the first day of spring", "The grass was wet with dew", "It was a golden day in autumn", "The morning mist had just lifted" };
static const char *const storms[] = {
    "rain|it began to rain|the rain stopped|wet", "storm|a big storm came|the storm was over|wet", "wind|a strong wind began to blow|the wind grew calm|cold", "snow|thick snow began to fall|the snow stopped|cold", "fog|a thick fog came down|the fog lifted|damp", "thunder|thunder rolled over the hills|the thunder moved away|scared", "hail|hail fell from the dark sky|the hail melted|cold", "blizzard|a blizzard blew in from the north|the blizzard ended|frozen", "drizzle|a cold drizzle began|the drizzle ended|damp", "gale|a gale howled in from the sea|the gale died down|wet",
};
static const char *const mornings[] = { "one day", "one morning", "one sunny day", "one day", "one Saturday", "one spring morning", "one summer day", "one fine morning", "one windy day", "one Sunday", "early one morning", "one autumn day", "one cold morning", "one bright day", "on the first day of summer", "one Monday", "one April morning", "on market day", "on a misty morning", "on the last day of school", "one warm day in June", "one crisp October morning" };
static const char *const games[] = { "tag", "hide and seek", "catch", "hopscotch", "marbles", "soccer", "checkers", "leapfrog", "dominoes", "pirates", "cards", "knights", "chess", "blind man's buff", "explorers", "tug of war" };

/* ---- actions ---------------------------------------------------------------------------------------------------------------- */

/* skills: trouble, trick, success */
static const char *const skills[] = {
    "ride a bike|fell off into the grass|look ahead and not at the wheel|rode all the way to the gate", "swim|swallowed a lot of water|kick with both legs|swam across the pool", "whistle|made only a hiss|put your lips in a round shape|whistled a whole tune", "tie @1.his shoes|made a big knot|make two loops like rabbit ears|tied both shoes alone",
    "skate|landed on @1.his bottom|bend your knees|glided across the ice", "read|mixed up all the letters|say each sound slowly|read a whole page aloud", "bake bread|burned the first loaf|set the clock and watch the oven|took a perfect loaf out of the oven", "juggle|dropped all the balls|throw one ball higher than the other|kept three balls in the air",
    "paint a horse|drew a dog with long legs|look at the shape of the neck|painted a horse that seemed to run", "play the flute|made a terrible squeak|blow softly|played a slow, sweet song", "climb a rope|slid back to the floor|hold it with your feet too|climbed to the very top", "sew|pricked @1.his finger|use a thimble|sewed a small blue bag",
    "dive|landed flat on @1.his belly|point your hands like an arrow|dived without a splash", "row a boat|went around in circles|pull both oars at the same time|rowed straight to the dock", "fly a kite|pulled it into a bush|run against the wind|let the kite dance in the clouds", "knit|dropped every second stitch|count each stitch|knitted a striped scarf",
    "do a handstand|fell over sideways|look at the floor between your hands|stood on @1.his hands and laughed", "count to one hundred|forgot the number after twenty-nine|use ten fingers again and again|counted to one hundred without a stop", "dance|stepped on everyone's toes|listen to the drum|danced across the whole floor", "ski|slid into a heap of snow|make a wedge with the skis|skied around every flag",
    "write @1.his name|wrote one letter backward|trace it first with a finger|wrote @1.his name on the wall chart", "carve wood|cut the duck's beak off|cut away from yourself|carved a tiny swan",
};
/* fears: what it seems, what it was, help */
static const char *const fears[] = {
    "the dark|saw a tall shape beside the bed|only a coat on a chair|turn on the light", "thunder|heard a crash above the roof|only two clouds and a lot of noise|count the seconds after each flash", "deep water|could not see the bottom of the pool|only water that held people up|float on your back", "dogs|heard a loud bark behind the gate|only a small dog who wanted to play|hold out one hand and wait",
    "high places|felt @1.his legs shake on the ladder|only eight steps above soft grass|look up and not down", "spiders|found a gray spider on the wall|only a small animal making its web|watch it from the doorway", "the cellar|heard something scratch below the stairs|only a mouse with a crumb|take a lantern down", "the first day of school|saw so many strange faces at the door|only children who felt the same way|say hello to one person",
    "the wind|heard a long moan in the chimney|only air playing in the bricks|hum along with it", "the old house|saw something white in the window|only a torn curtain|knock on the door at noon", "horses|felt hot breath on @1.his neck|only a gentle mare who smelled apples|stroke its soft nose", "singing alone|saw all the people in the hall|only neighbors who wanted to hear a song|look at one friendly face",
    "the dentist|saw a row of shiny tools|only mirrors and brushes|squeeze a rubber ball", "big waves|saw the water rise like a wall|only foam when it reached the sand|jump just before it comes", "bees|heard a buzz close to @1.his ear|only a bee looking for a flower|stand as still as a post", "masks|saw a green face with horns|only paper and paint|touch the mask with one finger",
};
/* chores: what (to), did (past), ruined when skipped */
static const char *const chores[] = {
    "water the plants|watered the plants|the plants hung their heads", "feed the hens|fed the hens|the hens cried with hunger", "close the gate|closed the gate|the sheep ran out into the road", "wash the dishes|washed the dishes|there was no clean cup in the house", "sweep the floor|swept the floor|everyone had dust on their feet", "bring in the wood|brought in the wood|the fire went out and the house grew cold",
    "clean @1.his room|cleaned @1.his room|nobody could find anything", "shut the window|shut the window|the rain came in and made the bed wet", "brush the pony|brushed the pony|the pony's mane was full of knots", "walk the dog|walked the dog|the dog chewed a pillow to pieces", "hang up the wash|hung up the wash|the shirts smelled sour", "put away the tools|put away the tools|the tools turned brown with rust",
    "pick the ripe plums|picked the ripe plums|the wasps ate all the plums", "cover the well|covered the well|a bucket and two boots fell in", "lock the henhouse|locked the henhouse|a hungry weasel scared the hens away", "mend the net|mended the net|all the fish swam out through the hole", "turn off the tap|turned off the tap|the bathroom became a lake", "trim the lamp|trimmed the lamp|the lamp smoked and went dark",
};
/* hurts: for the kind deed */
static const char *const troubles[] = {
    "had a thorn in @1.his paw|pulled the thorn out", "was stuck in the mud|pulled with a long branch", "was tangled in a net|cut the net with a sharp stone", "had lost @1.his way|showed the way home", "was very hungry|shared some food", "had fallen into a deep hole|let down a rope", "had hurt @1.his leg|tied a soft cloth around it", "was caught under a fallen branch|lifted the branch with both hands", "was too cold to move|wrapped @1.him in a warm scarf", "could not cross the stream|laid a log across the water", "had a burr in @1.his ear|picked the burr out gently", "was trapped behind a rock|rolled the rock aside",
};
static const char *const good_deeds[] = { "carried a heavy bag for a neighbor", "gave half of @1.his lunch to a friend", "helped a small child cross the street", "picked up paper in the park", "found a lost purse and gave it back", "read a book to a sick friend", "swept the snow from an old man's steps", "put a baby bird back in its nest", "held the door for a woman with a cart", "wrote a letter to a lonely sailor", "washed the muddy bench", "let a tired girl sit down on the bus", "shared an umbrella", "fed a stray cat", "fixed the fence of the widow next door", "planted flowers by the bus stop" };
static const char *const jokes_on[] = { "put salt in the sugar bowl|tasted the tea", "hid behind the door and shouted|came in with a tray", "tied two shoes together|got up to go", "painted spots on the white horse|came to ride", "put a rubber frog in the bread box|wanted some toast", "rang the bell and ran away|opened the door for the fifth time", "moved the hands of the clock|came two hours early to the market", "put flour in the umbrella|opened it in the rain" };
static const char *const shows[] = { "sing a song", "dance", "tell a joke", "play a tune", "do a magic trick", "read a poem", "walk on a rope", "act in a play", "show a painting", "stand on one leg", "make animal sounds", "do cartwheels", "recite a riddle" };
static const char *const errands[] = { "u:milk", "u:bread", "p:eggs", "u:flour", "u:butter", "u:honey", "p:apples", "p:candles", "u:thread", "u:cheese", "u:salt", "p:nails", "u:soap", "p:onions", "u:yeast", "u:vinegar", "p:lemons", "u:cinnamon", "u:paint", "p:herbs" };
static const char *const contests[] = {
    "race|run|ran as fast as the wind", "cake contest|bake|baked the best cake", "swimming race|swim|reached the other side", "singing contest|sing|sang like a bird", "kite contest|fly a kite|flew a kite above all the others", "boat race|row|rowed past the last post", "jumping contest|jump|jumped over the highest bar", "pumpkin contest|grow a pumpkin|grew a pumpkin as big as a barrel", "drawing contest|draw|drew the best picture", "spelling contest|spell|spelled every word", "sack race|hop|hopped over the line", "chess match|play chess|moved the last piece", "sledding race|steer a sled|slid past the red flag", "archery contest|shoot an arrow|hit the middle of the target",
};
static const char *const secrets[] = { "a small door behind the bookcase|a room full of old toys", "a hole in the garden wall|a garden where nobody had been for years", "a map under the floor|an old box full of coins and letters", "a path behind the waterfall|a dry cave with pictures on its walls", "a key in an old shoe|a trunk full of costumes", "a nest in the chimney|four round baby owls", "a ladder in the hollow tree|a tiny room with a view over the forest", "a letter in a bottle|a friend on the other side of the bay", "a stair under the rug|a cellar with a telescope", "a gap in the hedge|a pond with a hundred goldfish", "a string in the attic|a bell that had not rung for years", "a hatch in the barn|a nest of sleeping kittens" };
static const char *const dreams[] = { "see the sea", "fly like a bird", "touch the snow", "see the big city", "ride on a train", "catch a star", "climb the highest mountain", "sail around the world", "find a treasure", "meet a whale", "visit the moon", "cross the desert", "see a real castle", "sleep under the stars", "hear an orchestra", "walk behind a waterfall" };
static const char *const magic[] = { "ring", "stone", "feather", "lamp", "mirror", "bell", "flute", "hat", "pebble", "key", "carpet", "acorn", "brush", "pot", "broom", "cloak", "whistle", "candle", "goblet", "amulet", "wand", "hourglass", "spyglass", "thimble", "scepter", "crystal", "locket", "chalice", "ladle", "comb", "trumpet", "compass" };
static const char *const treasures[] = { "gold coins", "shiny shells", "old letters", "blue glass beads", "wooden toys", "silver spoons", "seeds of every kind", "old photographs", "colored stones", "a pirate hat and a map", "pearls", "marbles", "postcards", "tin soldiers", "rubies", "fossils", "arrowheads", "opals", "sapphires", "brass medals", "carved chessmen", "golden thimbles", "emeralds", "old maps", "amulets" };

/* ---- how it was ------------------------------------------------------------------------------------------------------------- */

static const char *const feel_happy[] = { "happy", "very happy", "glad", "proud", "so happy", "full of joy", "pleased", "delighted", "cheerful", "thrilled", "overjoyed", "content", "merry", "grateful", "relieved" };
static const char *const feel_sad[] = { "sad", "very sad", "unhappy", "upset", "lonely", "sorry", "gloomy", "miserable", "disappointed", "downhearted", "heartbroken", "glum", "tearful" };
static const char *const feel_scared[] = { "scared", "afraid", "very scared", "worried", "nervous", "frightened", "alarmed", "terrified", "uneasy", "anxious", "startled", "timid" };
static const char *const feel_angry[] = { "angry", "cross", "very angry", "mad", "grumpy", "annoyed", "furious", "irritated", "sulky", "bitter" };
static const char *const feel_tired[] = { "tired", "very tired", "sleepy", "worn out", "weary", "drowsy", "exhausted", "out of breath" };
static const char *const nice[] = { "nice", "beautiful", "lovely", "pretty", "wonderful", "fine", "bright", "shiny", "special", "sweet", "soft", "new", "splendid", "charming", "colorful", "marvelous", "delicate", "magnificent", "cozy", "handsome", "elegant", "dazzling", "exquisite", "gorgeous", "radiant", "graceful", "glittering", "velvety", "precious", "quaint", "gleaming", "enchanting", "polished", "striped" };
static const char *const old[] = { "old", "rusty", "dusty", "broken", "gray", "dirty", "worn", "crooked", "faded", "torn", "cracked", "shabby", "ancient", "dented", "ragged", "squeaky", "battered", "chipped", "tattered", "wobbly" };
static const char *const tasty[] = { "warm", "sweet", "fresh", "hot", "tasty", "delicious", "yummy", "crispy", "creamy", "juicy", "spicy", "crunchy", "sticky", "golden", "buttery", "fluffy", "crumbly", "tangy", "savory", "fragrant" };
static const char *const slowly[] = { "slowly", "carefully", "quietly", "softly", "gently", "step by step", "silently", "bravely", "on tiptoe", "patiently", "cautiously", "steadily", "timidly", "gingerly", "warily", "shyly", "noiselessly", "hesitantly", "calmly" };
static const char *const quickly[] = { "quickly", "at once", "fast", "in a hurry", "as fast as @1.he could", "right away", "without a pause", "like the wind", "swiftly", "in a flash", "briskly", "hastily" };
static const char *const numbers[] = { "three", "two", "four", "five", "six", "seven", "ten", "eight", "nine", "twelve", "twenty", "eleven", "fifteen", "thirty", "forty", "fifty", "ninety" };
static const char *const days[] = { "Monday", "Saturday", "Sunday", "Friday", "Tuesday", "Wednesday", "Thursday" };
static const char *const noises[] = { "crack", "splash", "thump", "bang", "rustle", "squeak", "knock", "hiss", "rumble", "scratching", "creak", "clatter", "whistle", "buzz", "howl", "rattle", "gurgle", "tapping", "whimper", "croak", "chirp", "snore" };

/* ---- speech: verbs with their manner, and gestures -------------------------------------------------------------------------- */

static const char *const say_plain[] = { "said", "said", "said", "said softly", "explained", "said with a nod", "said slowly", "announced" };
static const char *const say_reply[] = { "said", "answered", "said", "replied", "said softly", "answered with a nod" };
static const char *const beat_plain[] = { "nodded", "thought for a moment", "looked up", "pointed ahead", "shrugged", "scratched @1.his head", "tilted @1.his head" };
static const char *const say_ask[] = { "asked", "asked", "asked softly", "wondered", "asked with wide eyes", "asked politely", "inquired" };
static const char *const beat_ask[] = { "looked up", "was curious", "stopped", "turned around", "tilted @1.his head", "raised one eyebrow" };
static const char *const say_cry[] = { "cried", "shouted", "said", "called", "said loudly", "yelled", "exclaimed" };
static const char *const beat_cry[] = { "jumped up", "waved", "threw up @1.his hands", "stared", "gasped" };
static const char *const say_happy[] = { "said happily", "laughed", "said with a smile", "cried happily", "cheered", "said proudly", "said with shining eyes", "giggled", "beamed" };
static const char *const beat_happy[] = { "smiled", "laughed", "clapped", "jumped for joy", "grinned", "danced in a circle", "beamed", "chuckled" };
static const char *const say_sad[] = { "said sadly", "cried", "sighed", "whispered", "said in a low voice", "sobbed", "sniffed", "said through tears", "murmured", "moaned" };
static const char *const beat_sad[] = { "began to cry", "looked at the ground", "sighed", "wiped away a tear", "hung @1.his head", "sniffed", "bit @1.his lip" };
static const char *const say_kind[] = { "said kindly", "said gently", "said with a smile", "said", "said softly", "said warmly", "said in a calm voice" };
static const char *const beat_kind[] = { "smiled", "nodded", "gave a warm smile", "laughed kindly", "winked" };
static const char *const say_scared[] = { "whispered", "said in a small voice", "cried", "said in a shaky voice", "gasped", "stammered", "squeaked" };
static const char *const beat_scared[] = { "began to shake", "stood very still", "looked around", "took a step back", "held @1.his breath", "turned pale", "shivered" };
static const char *const say_angry[] = { "shouted", "said crossly", "said angrily", "grumbled", "snapped", "growled", "muttered", "hissed" };
static const char *const beat_angry[] = { "stamped @1.his foot", "frowned", "turned away", "shook @1.his head", "crossed @1.his arms", "scowled" };
static const char *const say_sorry[] = { "said softly", "said", "whispered", "said sadly", "mumbled", "said in a small voice", "admitted", "confessed" };
static const char *const beat_sorry[] = { "looked down", "turned red", "swallowed hard", "took a deep breath", "blushed", "shuffled @1.his feet" };

#define ENTRIES(list) .entries = list, .count = (int)(sizeof list / sizeof *list)

const struct story_class story_classes[] = {
    { "girl", STORY_NAME, 'f', "", ENTRIES(girls), .core = 24 },
    { "boy", STORY_NAME, 'm', "", ENTRIES(boys), .core = 24 },
    { "petname", STORY_PLAIN, 'n', "", ENTRIES(petnames), .core = 10 },
    { "parent", STORY_RELATIVE, 'f', "call", ENTRIES(parents) },
    { "sibling", STORY_RELATIVE, 'f', "call", ENTRIES(siblings) },
    { "elder", STORY_NOUN, 'x', "", ENTRIES(elders) },
    { "worker", STORY_NOUN, 'x', "where tool made gives teach", ENTRIES(workers) },
    { "woodcutter", STORY_NOUN, 'x', "", ENTRIES(woodcutters) },
    { "ruler", STORY_NOUN, 'x', "", ENTRIES(rulers) },
    { "animal", STORY_NOUN, 'x', "home move eats sound", ENTRIES(animals) },
    { "pet", STORY_NOUN, 'n', "sound glad bed", ENTRIES(pets) },
    { "smallpet", STORY_NOUN, 'n', "sound glad", ENTRIES(small_pets) },
    { "bird", STORY_NOUN, 'n', "", ENTRIES(birds) },
    { "sea", STORY_NOUN, 'x', "home", ENTRIES(seacreatures) },
    { "wonder", STORY_NOUN, 'n', "gloss", ENTRIES(wonders) },
    { "insect", STORY_NOUN, 'x', "", ENTRIES(insects) },
    { "livestock", STORY_NOUN, 'n', "eats", ENTRIES(farm_animals) },
    { "color", STORY_PLAIN, 'n', "", ENTRIES(colors) },
    { "size", STORY_PLAIN, 'n', "", ENTRIES(sizes) },
    { "trait", STORY_PLAIN, 'n', "", ENTRIES(traits) },
    { "flaw", STORY_PLAIN, 'n', "habit", ENTRIES(flaws) },
    { "toy", STORY_NOUN, 'n', "play part", ENTRIES(toys) },
    { "keepsake", STORY_NOUN, 'n', "found", ENTRIES(keepsakes) },
    { "instrument", STORY_NOUN, 'n', "sound", ENTRIES(instruments) },
    { "food", STORY_NOUN, 'n', "", ENTRIES(foods) },
    { "fruit", STORY_NOUN, 'n', "", ENTRIES(fruits) },
    { "orchard", STORY_NOUN, 'n', "", ENTRIES(tree_fruits) },
    { "ripe", STORY_PLAIN, 'n', "", ENTRIES(ripe) },
    { "vegetable", STORY_NOUN, 'n', "", ENTRIES(vegetables) },
    { "flower", STORY_NOUN, 'n', "", ENTRIES(flowers) },
    { "tree", STORY_NOUN, 'n', "", ENTRIES(trees) },
    { "clothing", STORY_NOUN, 'n', "", ENTRIES(clothes) },
    { "container", STORY_NOUN, 'n', "", ENTRIES(containers) },
    { "material", STORY_PLAIN, 'n', "", ENTRIES(materials) },
    { "gift", STORY_NOUN, 'n', "", ENTRIES(gifts) },
    { "building", STORY_NOUN, 'n', "of at use", ENTRIES(buildings) },
    { "place", STORY_PLAIN, 'n', "to sight", ENTRIES(places) },
    { "home", STORY_PLAIN, 'n', "", ENTRIES(homes) },
    { "room", STORY_NOUN, 'n', "", ENTRIES(rooms) },
    { "nice_weather", STORY_PLAIN, 'n', "", ENTRIES(nice_weather) },
    { "storm", STORY_NOUN, 'n', "begins ends feel", ENTRIES(storms) },
    { "morning", STORY_PLAIN, 'n', "", ENTRIES(mornings) },
    { "game", STORY_PLAIN, 'n', "", ENTRIES(games) },
    { "skill", STORY_PLAIN, 'n', "trouble trick success", ENTRIES(skills) },
    { "fear", STORY_PLAIN, 'n', "sign truth help", ENTRIES(fears) },
    { "chore", STORY_PLAIN, 'n', "did ruin", ENTRIES(chores) },
    { "trouble", STORY_PLAIN, 'n', "help", ENTRIES(troubles) },
    { "good_deed", STORY_PLAIN, 'n', "", ENTRIES(good_deeds) },
    { "prank", STORY_PLAIN, 'n', "victim", ENTRIES(jokes_on) },
    { "show", STORY_PLAIN, 'n', "", ENTRIES(shows) },
    { "errand", STORY_NOUN, 'u', "", ENTRIES(errands) },
    { "contest", STORY_NOUN, 'n', "verb win", ENTRIES(contests) },
    { "secret", STORY_PLAIN, 'n', "inside", ENTRIES(secrets) },
    { "dream", STORY_PLAIN, 'n', "", ENTRIES(dreams) },
    { "magic", STORY_NOUN, 'n', "", ENTRIES(magic) },
    { "treasure", STORY_PLAIN, 'p', "", ENTRIES(treasures) },
    { "happy", STORY_PLAIN, 'n', "", ENTRIES(feel_happy) },
    { "sad", STORY_PLAIN, 'n', "", ENTRIES(feel_sad) },
    { "scared", STORY_PLAIN, 'n', "", ENTRIES(feel_scared) },
    { "angry", STORY_PLAIN, 'n', "", ENTRIES(feel_angry) },
    { "tired", STORY_PLAIN, 'n', "", ENTRIES(feel_tired) },
    { "nice", STORY_PLAIN, 'n', "", ENTRIES(nice) },
    { "old", STORY_PLAIN, 'n', "", ENTRIES(old) },
    { "tasty", STORY_PLAIN, 'n', "", ENTRIES(tasty) },
    { "slowly", STORY_PLAIN, 'n', "", ENTRIES(slowly) },
    { "quickly", STORY_PLAIN, 'n', "", ENTRIES(quickly) },
    { "number", STORY_PLAIN, 'n', "", ENTRIES(numbers) },
    { "day", STORY_PLAIN, 'n', "", ENTRIES(days) },
    { "noise", STORY_NOUN, 'n', "", ENTRIES(noises) },
    { "say_plain", STORY_PLAIN, 'n', "", ENTRIES(say_plain) }, { "beat_plain", STORY_PLAIN, 'n', "", ENTRIES(beat_plain) },
    { "say_reply", STORY_PLAIN, 'n', "", ENTRIES(say_reply) }, { "beat_reply", STORY_PLAIN, 'n', "", ENTRIES(beat_plain) },
    { "say_ask", STORY_PLAIN, 'n', "", ENTRIES(say_ask) }, { "beat_ask", STORY_PLAIN, 'n', "", ENTRIES(beat_ask) },
    { "say_cry", STORY_PLAIN, 'n', "", ENTRIES(say_cry) }, { "beat_cry", STORY_PLAIN, 'n', "", ENTRIES(beat_cry) },
    { "say_happy", STORY_PLAIN, 'n', "", ENTRIES(say_happy) }, { "beat_happy", STORY_PLAIN, 'n', "", ENTRIES(beat_happy) },
    { "say_sad", STORY_PLAIN, 'n', "", ENTRIES(say_sad) }, { "beat_sad", STORY_PLAIN, 'n', "", ENTRIES(beat_sad) },
    { "say_kind", STORY_PLAIN, 'n', "", ENTRIES(say_kind) }, { "beat_kind", STORY_PLAIN, 'n', "", ENTRIES(beat_kind) },
    { "say_scared", STORY_PLAIN, 'n', "", ENTRIES(say_scared) }, { "beat_scared", STORY_PLAIN, 'n', "", ENTRIES(beat_scared) },
    { "say_angry", STORY_PLAIN, 'n', "", ENTRIES(say_angry) }, { "beat_angry", STORY_PLAIN, 'n', "", ENTRIES(beat_angry) },
    { "say_sorry", STORY_PLAIN, 'n', "", ENTRIES(say_sorry) }, { "beat_sorry", STORY_PLAIN, 'n', "", ENTRIES(beat_sorry) },
};
const int story_class_count = (int)(sizeof story_classes / sizeof *story_classes);
