/* Short English stories for a small model to learn from: composed, not copied, from plots and words of our own.
 * A story is a function of (seed, index) alone, so any part of a corpus can be made in any order by any thread.
 *
 * stories.c is the machinery, stories_words.c holds words and their properties, stories_rules.c the phrasings that
 * plots share, stories_plots_*.c the plots. All of them are written in one small language; this is all of it:
 *
 *   {a|b|}        one of the alternatives, an empty one included
 *   [h=boy,girl]  binds h to a word of one of the classes; [f=animal*] gives it a name of its own; [m=parent:h] makes
 *                 it a relative of h; [b=h+f] is both together
 *   @h.form       h in one of its forms (below); @H with a capital letter
 *   #class.form   a word of a class, not bound
 *   &rule(h,f)    the shared phrasing `rule`, in which @1 is h and @2 is f
 *   <h sad:...>   h says that, in a mood; where the tag stands and how it reads is the machinery's choice
 *   \n            a new paragraph
 *
 * Forms: none is how one refers to it ("Lily", "the fox", "her mother"); s, o, p the same as subject, object and
 * possessive, or a pronoun where it is clear who is meant; he, him, his, himself always the pronoun; a with the
 * indefinite article or "some"; n and ns the noun and its plural; kind what somebody is ("girl", "fox"); name without
 * "a fox named" at the first time; call how one is spoken to; was ("was" or "were"); anything else is the name of one
 * of the class's fields. */
#ifndef DEEPSEEK_TEXT_STORIES_H
#define DEEPSEEK_TEXT_STORIES_H

#include <stddef.h>
#include <stdint.h>

#define STORY_LIMIT 4096                          /* bytes of the longest story, NUL included */
enum { STORY_WORDS_MIN = 60, STORY_WORDS_MAX = 250 };

/* Writes story number `index` of `seed`: ASCII, a few paragraphs of one line each with '\n' between them (none at the
 * end), NUL-terminated. Returns its length. */
size_t story_write(uint64_t seed, uint64_t index, char text[STORY_LIMIT]);

/* ---- the tables (stories_words.c, stories_rules.c, stories_plots_*.c) -------------------------------------------- */

enum story_kind {
    STORY_PLAIN,     /* words without an article of their own: adjectives, places with a preposition, whole phrases */
    STORY_NOUN,      /* "the fox", "a fox" */
    STORY_NAME,      /* "Lily" */
    STORY_RELATIVE,  /* "her mother" or "Mom" */
};

/* An entry is "word|field|field..." in the order of `fields`; field texts may use the language above. A word may begin
 * with m: f: n: p: u: (he, she, it, plural, uncountable) where it differs from its class. The commonest entries come
 * first: an entry's chance falls with its place. Of names, the first `core` are drawn most of the time, each as often:
 * with few of them a small model learns soon that a name is one that was there before. */
struct story_class {
    const char *name;
    enum story_kind kind;
    char gender;               /* m f n p u, or x: he or she by chance */
    const char *fields;        /* names, separated by blanks */
    const char *const *entries;
    int count;
    int core;                  /* 0: none */
};

struct story_rule { const char *name, *body; };   /* body: alternatives separated by | */

extern const struct story_class story_classes[];
extern const int story_class_count;
extern const struct story_rule story_rules[];
extern const int story_rule_count;
/* Plots are rules without parameters, in several files. */
struct story_plots { const struct story_rule *plots; int count; };
extern const struct story_plots story_plots_home, story_plots_animals, story_plots_world;

#endif
