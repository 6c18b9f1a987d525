"""A small grammar of plain-English stories, the text behind the built-in models.

A story has one to three sentences about one hero, and leans towards one of three moods. The words that carry
a mood stand in three columns, so a text's cheer is found by counting words.
"""

import random
import re
from collections.abc import Mapping

MOODS = ("cheerful", "plain", "gloomy")
MOOD_LOYALTY = 0.45
STORY_WORDS = range(10, 29)

MOOD_WORDS: Mapping[str, tuple[str, str, str]] = {
    "feeling": (
        "happy glad merry proud cheerful joyful thankful hopeful",
        "sleepy hungry curious busy shy quiet calm thirsty",
        "sad lonely gloomy grumpy weary upset worried bitter",
    ),
    "look": (
        "lovely bright golden shiny sweet friendly splendid pretty",
        "small old big round brown red wooden plain",
        "dull broken dusty ugly rotten cheap torn nasty",
    ),
    "view": (
        "peaceful green charming sunlit",
        "quiet wide distant old",
        "dark bleak muddy haunted",
    ),
    "sky": (
        "sunny warm fine clear",
        "windy cool mild still",
        "stormy foggy freezing dreary",
    ),
    "did": (
        "laughed smiled danced sang cheered played",
        "waited rested walked sat listened stayed",
        "cried sighed shivered wept groaned grumbled",
    ),
    "how": (
        "gladly happily merrily kindly",
        "slowly quietly softly early",
        "sadly wearily coldly bitterly",
    ),
    "event": (
        "feast song party rainbow gift dance",
        "letter market lesson meal walk trip",
        "storm fight flood funeral fog thief",
    ),
}

NEUTRAL_WORDS: Mapping[str, str] = {
    "animal": "fox hen cat dog goat bear mouse owl horse duck rabbit frog sheep crow pig hare",
    "job": "baker farmer sailor teacher miller painter doctor king",
    "thing": "hat key boat book lamp kite apple cup basket coat drum stone map box ring chair",
    "site": "river barn garden forest hill school bridge lake mill village harbour meadow tower field",
    "near": "by near behind in",
    "time": "morning day evening night afternoon",
    "season": "spring summer autumn winter",
    "got": "found lost made saw kept bought carried painted dropped hid",
    "went": "went ran walked hurried",
    "friend": "Ann Bob Joe Kate Max Rosa",
    "girl": "Mia Lucy Emma Nora Grace Ella",
    "boy": "Tom Ben Sam Jack Leo Peter",
}

PHRASES: Mapping[str, tuple[str, ...]] = {
    "where": ("{near} the {site}", "{near} the {site}", "{near} the {view} {site}"),
    "there": ("to the {site}", "to the {site}", "home", "to the {view} {site}"),
    "what": ("a {look} {thing}", "a {look} {thing}", "a {thing}", "the {thing}", "{his} {thing}"),
    "whom": ("the {animal}", "a {feeling} {animal}", "the {job}", "{friend}", "{friend}"),
    "opening": (
        "{hero} {did} {where}.",
        "{hero} {did} {how} {where}.",
        "{hero} {got} {what} {where}.",
        "{hero} and {whom} {went} {there}.",
        "{hero} {went} {there} to see {whom}.",
        "One {sky} {time}, {hero} {got} {what}.",
        "One {sky} {time}, {hero} {went} {there}.",
        "It was a {sky} {time}, and {hero} {did}.",
        "In {season}, {hero} {went} {there}.",
        "After the {event}, {hero} {did} {where}.",
        "When {hero} heard about the {event}, {he} {did}.",
    ),
    "ending": (
        "{he} felt {feeling} and {did}.",
        "{he} {did} because of the {event}.",
        "{he} was {feeling}, but {whom} {did}.",
        "{he} met {whom}, and they {did} {how}.",
        "{he} gave {what} to {whom}.",
        "{he} told {whom} about the {event}.",
        "then {he} {went} {there}.",
        "the {time} was {sky}, so {he} {did}.",
        "everyone was {feeling} after the {event}.",
        '"I am {feeling}," said {whom}.',
        '"What a {look} {thing}!" {he} said.',
        "soon there was a {event} {where}.",
    ),
    "beast": ("the {animal}", "the {feeling} {animal}", "an old {animal}"),
    "worker": ("the {job}", "the {feeling} {job}", "an old {job}"),
}

HEROES = (
    ("{girl}", "she", "her"),
    ("{boy}", "he", "his"),
    ("{beast}", "it", "its"),
    ("{worker}", "he", "his"),
)


def _column(mood: int) -> frozenset[str]:
    return frozenset(word for columns in MOOD_WORDS.values() for word in columns[mood].split())


CHEERFUL_WORDS = _column(0)
GLOOMY_WORDS = _column(2)


def cheer(text: str) -> int:
    """Number of cheerful words in `text` minus its number of gloomy words."""
    words = re.findall(r"[a-z]+", text.lower())
    return sum((word in CHEERFUL_WORDS) - (word in GLOOMY_WORDS) for word in words)


def story(rng: random.Random) -> str:
    """One story, of a length within `STORY_WORDS`."""
    while True:
        text = _any_story(rng)
        if len(text.split()) in STORY_WORDS:
            return text


def opening(rng: random.Random, words: int) -> str:
    """The first `words` words of a story, stopping inside a sentence."""
    while True:
        start = story(rng).split()[:words]
        if len(start) == words and start[-1][-1].isalpha():
            return " ".join(start)


def exchange(rng: random.Random) -> list[dict[str, str]]:
    """A chat: the user gives the first words of a story, and the assistant tells all of it."""
    text = story(rng)
    start = " ".join(text.split()[: rng.randint(1, 5)])
    return [{"role": "user", "content": start}, {"role": "assistant", "content": text}]


def _any_story(rng: random.Random) -> str:
    mood = rng.randrange(len(MOODS))
    hero, he, his = rng.choice(HEROES)
    bound = {"he": he, "his": his}
    bound["hero"] = _expand(hero, mood, bound, rng)
    endings = rng.sample(PHRASES["ending"], rng.choice((0, 1, 1, 2)))
    templates = [rng.choice(PHRASES["opening"]), *endings]
    return " ".join(_sentence(_expand(template, mood, bound, rng)) for template in templates)


def _expand(template: str, mood: int, bound: Mapping[str, str], rng: random.Random) -> str:
    def fill(slot: re.Match[str]) -> str:
        name = slot[1]
        if name in bound:
            return bound[name]
        if name in PHRASES:
            return _expand(rng.choice(PHRASES[name]), mood, bound, rng)
        if name in NEUTRAL_WORDS:
            return rng.choice(NEUTRAL_WORDS[name].split())
        column = mood if rng.random() < MOOD_LOYALTY else rng.randrange(len(MOODS))
        return rng.choice(MOOD_WORDS[name][column].split())

    return re.sub(r"\{(\w+)\}", fill, template)


def _sentence(text: str) -> str:
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    return text[0].upper() + text[1:]
