"""The words of the stories, in order of likelihood (Zipf)."""

THEMES = """
by the sea: harbour lighthouse pier boathouse beach
  shell wave sail anchor rock net buoy dune oar mast pebble raft sandbank rope barrel
  crab gull seal dolphin turtle pelican
  fisherman+he sailor+he captain+she mermaid+she
in the forest: cabin clearing treehouse campfire glade
  oak fern mushroom acorn log stump branch pinecone hollow bramble path nest thicket birch twig
  owl fox badger squirrel hedgehog woodpecker
  woodcutter+he ranger+she hermit+he witch+she
on the farm: barn farmhouse stable orchard mill
  haystack fence pond tractor plough scarecrow gate bucket cart trough furrow shed wheelbarrow pitchfork hedge
  hen goat pig cow duck donkey
  farmer+he milkmaid+she shepherd+he miller+he
in the castle: tower kitchen ballroom courtyard chapel
  moat drawbridge flag shield torch staircase tapestry banner statue dungeon candle goblet turret throne
  dragon horse raven bat hound falcon
  king+he queen+she knight+he jester+he
in the town: market bakery square station museum
  bench fountain bus clock tram shop window sign pavement letterbox kiosk chimney street doorway awning
  cat pigeon mouse poodle sparrow rat
  baker+he policewoman+she postman+he tailor+he
in the desert: oasis camp temple well palace
  cactus sandhill boulder canyon mirage palm caravan pyramid ruin tent saddle thornbush hut trail waterskin
  camel lizard snake scorpion vulture jackal
  trader+he nomad+she guide+he rider+she
in the mountains: summit cave chalet waterfall valley
  ridge glacier peak ledge crag gorge slope cliff cairn footbridge ladder meadow pine pinnacle spring
  eagle bear wolf marmot ram lynx
  climber+she goatherd+he monk+he innkeeper+she
in the garden: greenhouse summerhouse swing arbour patio
  rose tulip daisy flowerpot rake bush lawn sunflower birdbath trellis hose cabbage pumpkin vine lily
  bee snail butterfly frog robin worm
  gardener+he beekeeper+she neighbour+she painter+he
in the snowy north: igloo lodge rink hilltop den
  snowdrift icicle iceberg snowman fir snowball sledge floe fireplace bonfire kayak tunnel stove paddle
  penguin walrus husky hare puffin otter
  skier+she explorer+he toymaker+he ranchwoman+she
in the jungle: lagoon shrine village treetop riverbank
  creeper orchid coconut canoe bamboo hammock gourd idol puddle swamp trunk mango nut waterlily drumstick
  monkey parrot tiger elephant panther toucan
  pilot+she doctor+she drummer+he hunter+he
beside the river: ford weir ferry jetty watermill
  bank willow current eddy barge dam stone reed ripple punt islet bulrush stile bridge millstone
  beaver heron swan newt toad dragonfly
  ferryman+he angler+he swimmer+she boatbuilder+she
at the fair: carousel bandstand stage tollgate lion-house
  balloon ticket trapeze hoop cannon curtain wagon trumpet puppet prize booth mirror spotlight poster stall
  lion pony zebra chimp peacock llama
  clown+he juggler+she acrobat+she magician+he
"""
GIRLS = """Lily Anna Mia Sara Emma Lucy Ella Ruby Amy Kate Nina Zoe Ivy Dora Jane Clara Alice Molly Rosa
Hazel Greta Tess Nora Elsa Maya Freya Poppy Wendy Sophie Laura Heidi Jill Paula Carla Martha Edith Agnes
Bella Celia Daphne Esther Fiona Gwen Hilda Irma Judy Kira Lena Mabel Nell Olive Petra Queenie Rita Stella
Thea Una Vera Willa Yara Zelda Ada Beth Cora Dina Eva"""
BOYS = """Tom Ben Max Sam Tim Jack Leo Finn Joe Dan Owen Bob Hugo Eli Adam Ned Oscar Peter Felix Ralph Simon
Toby Ivan Jonas Karl Luke Mark Nick Otto Paul Rob Stan Theo Victor Will Zach Aaron Bruno Carl David Edgar
Frank George Harry Ian Jim Kevin Lars Milo Noah Omar Percy Quentin Roy Seth Todd Umar Vince Walter Yuri Abel
Basil Cyril Dirk Emil Fred"""
COLOURS = """red blue green yellow white black pink brown orange purple grey golden silver striped spotted
rusty"""
TOYS = """ball kite doll puzzle whistle marble yo-yo robot top skateboard train teddy boomerang tambourine
jigsaw truck rattle xylophone spinner windmill"""
GEARS = """hat scarf coat cap jumper glove boot sock belt shirt jacket ribbon necklace bracelet apron cloak
sandal mitten backpack umbrella"""
TOOLS = """lamp box bell map book hammer spoon key basket bottle brush spade notebook pencil jug compass
telescope teapot magnet lantern"""
TRAITS = """kind small brave quiet clever cheerful shy young curious gentle lively polite careful honest
merry stubborn thoughtful friendly daring patient restless dreamy proud playful sensible modest nimble
fearless humble jolly noble sturdy witty dutiful hopeful loyal tidy tender lucky eager cautious"""
KINDS = """child youngster dreamer singer reader runner explorer pupil cousin rascal newcomer orphan helper
swimmer wanderer scholar twin toddler dancer sailor inventor painter gardener visitor climber traveller"""
MOODS = """happy tired hungry sad sleepy glad cold proud shy lonely calm thirsty busy afraid noisy excited
bored wet dirty angry lost warm surprised jealous grumpy gloomy silent nervous hopeful dizzy content muddy
tearful puzzled hurt wild relieved sorry thankful curious unwell chatty merry weary uneasy awake breathless
sulky grateful delighted cheerful worried anxious eager joyful homesick frightened ashamed amazed confused
annoyed playful patient restless drowsy peaceful stubborn greedy brave lively bashful cross troubled
carefree exhausted frisky"""
LOOKS = """old big little tall dark huge tiny round broken empty crooked pretty famous dusty ancient quiet
wonderful narrow painted ugly hidden mossy secret steep frozen sunny gloomy lonely enormous wooden stony
magic silent shady wide noisy splendid cracked tidy slippery shining leaning forgotten curious mysterious
sandy lovely sleepy heavy charming rickety peculiar ordinary gigantic haunted golden faded tangled smoky
pale grand bare strange bent sturdy humble noble lofty twisted bumpy shabby stately muddy dry damp cosy dim
airy grassy rocky leafy thorny fine rough smooth sparkling glittering wobbly hollow plain striking crumbling
weathered spotless murky gleaming sunken flat curved deserted neglected beloved distant nameless lonesome
graceful"""
TASTES = """hot sweet warm cold fresh salty crunchy soft spicy sticky creamy plain sour burnt homemade tasty
mashed dry fried baked leftover delicious green strange"""
DEEDS = """chased:chase saw:see followed:follow found:find helped:help liked:like heard:hear teased:tease
fed:feed watched:watch woke:wake greeted:greet frightened:frighten visited:visit admired:admire bit:bite
guarded:guard carried:carry licked:lick copied:copy passed:pass trusted:trust avoided:avoid
tickled:tickle"""
MOVES = """ran:runs walked:walks jumped:jumps climbed:climbs danced:dances hurried:hurries skipped:skips
crept:creeps wandered:wanders raced:races marched:marches crawled:crawls hopped:hops strolled:strolls
rolled:rolls stumbled:stumbles tiptoed:tiptoes dashed:dashes slid:slides leapt:leaps limped:limps
swung:swings galloped:gallops drifted:drifts"""
MANNERS = """quickly slowly quietly happily carefully bravely gently loudly softly proudly suddenly lazily
eagerly calmly sadly clumsily nervously merrily boldly gracefully sleepily shyly noisily patiently hastily
neatly wildly steadily politely cheerfully angrily secretly anxiously briskly wearily stubbornly awkwardly
joyfully warily dreamily kindly wisely gladly timidly firmly hopefully thoughtfully solemnly breathlessly
playfully crossly tenderly swiftly faintly gloomily daringly"""
FOODS = """bread cake soup cheese honey jam rice porridge pie chocolate toast salad popcorn butter pasta
stew pudding custard pancakes noodles dumplings biscuits sausages waffles beans carrots pickles raisins
gingerbread potatoes onions mushrooms spinach jelly muffins fudge yoghurt ham bacon turkey shortbread broth
crackers scones"""
FRUITS = """apples plums pears cherries grapes lemons peaches melons figs dates berries oranges apricots
walnuts chestnuts bananas currants quinces limes olives"""
NUMBERS = "three two five seven four six ten eight nine twelve"
SYLLABLES = "la ti mo ra fa zu ki ne do sha pim bo lu wee tam dee hey nonny rum fol ho bim tra jig"
SECRETS = """thunder velvet cinnamon moonlight pepper sapphire rainbow feather turnip lavender ginger bubble
whisper marigold thimble crystal sunrise pumpernickel nutmeg starlight button buttercup parsley tangerine
firefly waffle clover jasmine mustard snowflake emerald comet amber saffron toffee riddle pickle hazelnut"""
TREASURES = """crown medal flute violin boat bicycle treehouse ladder mirror clock garden puppy kitten pony
drum ring painting globe dollhouse guitar piano rocket chest sword diary candlestick trophy coin pearl
statue vase sundial teacup parasol hourglass letter umbrella sack carpet clarinet scroll saddle"""
QUALITIES = """old little shiny strange tiny huge wooden beautiful round broken heavy soft bright secret
magic plain narrow crooked dusty painted marvellous ancient glass rough enormous tall copper hollow velvet
polished dented humming mysterious folding pointed precious fragile musical foreign"""
SEASONS = "summer spring autumn winter"
HOURS = "morning afternoon evening night day"
WEATHERS = """sunny rainy windy cloudy cold warm stormy foggy snowy bright grey hot misty quiet clear chilly
breezy lovely damp dull"""
SKIES = """wind:blew:blows rain:fell:falls sun:shone:shines fog:hung:hangs snow:swirled:swirls
mist:drifted:drifts"""
SOUNDS = """whistle song bell shout laugh drum splash bang echo whisper roar knock cough rumble crash giggle
hum squeak growl sneeze hiss murmur thud chirp clatter howl yawn whoosh rattle sob click snore jingle
moan"""
HOBBIES = """singing drawing reading swimming cooking fishing dancing painting climbing whistling sewing
digging building gardening skating counting baking exploring sailing inventing juggling knitting writing
dreaming rowing riding acting sledding drumming weaving hiking stargazing birdwatching wrestling"""
GAMES = """hide-and-seek tag marbles leapfrog chess hopscotch cards dominoes catch skittles draughts
football pirates detectives doctors tennis"""

PETS = """Pip Button Shadow Biscuit Whiskers Domino Pebble Muffin Scout Ginger Patch Smoky Bubbles Nutmeg
Tiger Sandy Socks Misty Rusty Cookie Bandit Snowy Duke Honey Peanut Cocoa Flash Daisy Bramble Waffles Pepper
Truffle Toffee Comet Banjo Mango Olive Rocket Gizmo Dusty Sparky Buddy Jasper Maple Noodle Figaro Moss Ziggy
Acorn Blossom Captain Doodle Echo Freckles Goldie Hopper Inky Jelly Kiwi Lucky Marbles Nibbles Opal Pickle
Quill Raisin Spot Tulip Velvet Wags Yodel Zippy Almond Barnaby Cricket Dash Ember Fudge Gus Hazel Iris
Juniper Kipper Lola"""
PET_KINDS = """dog rabbit hamster lamb kitten parakeet duckling calf piglet foal tortoise canary goldfish
gecko ferret chick fawn cub puppy hedgehog raccoon magpie"""
