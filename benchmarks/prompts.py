"""What the tiny model can draw, split once and for all: prompts to calibrate with, and prompts to judge by."""

_KNOWN = (
    "apple, avocado, bacon, badger, bagel, banana, bat, bear, beaver, bee, beetle, bird, bison, black "
    "cat, blossom, blowfish, blue heart, blueberries, boar, bouquet, bread, broccoli, broken heart, brown "
    "heart, bubble tea, burrito, butterfly, cactus, cake, camel, candy, carrot, cat, cheese wedge, "
    "cherries, chestnut, chicken, chipmunk, coconut, coffee, cookie, corn, cow, crab, croissant, "
    "cucumber, cupcake, custard, deer, dog, dolphin, doughnut, duck, eagle, egg, eggplant, elephant, "
    "fish, flamingo, fox face, fried egg, fries, frog, garlic, goat, gorilla, grapes, green apple, green "
    "heart, hamburger, hamster, hedgehog, herb, hibiscus, honey pot, horse, kangaroo, kiwifruit, koala, "
    "ladybug, lemon, leopard, lion face, lobster, lotus, mango, maple leaf, melon, mushroom, orange "
    "heart, owl, panda face, pancakes, parrot, peach, pear, penguin, pineapple, pizza, popcorn, potato, "
    "purple heart, rabbit, raccoon, rose, sandwich, shark, snail, spider, squid, strawberry, sunflower, "
    "tangerine, tiger, tomato, tulip, turtle, waffle, watermelon, whale, white heart, wolf, yellow heart, "
    "zebra face"
)
KNOWN = _KNOWN.split(", ")
CALIBRATION = KNOWN[::4]
HELD_OUT = [name for i, name in enumerate(KNOWN) if i % 4]
