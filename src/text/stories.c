/* The machinery of stories.h: expands a plot, keeps track of who was mentioned when, and sees to pronouns, articles,
 * quotation marks and capitals. */
#include "text/stories.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/random.h"

enum { MAX_ENTITIES = 40, MAX_DEPTH = 24, MAX_USED = 96, NAME_SIZE = 12, ANCHOR = 1 };

/* Somebody or something of the story. */
struct entity {
    char variable[NAME_SIZE];
    const struct story_class *class;
    const char *entry;             /* past its gender prefix */
    const char *name;              /* of a named animal, or NULL */
    char gender;                   /* m f n p u */
    int owner;                     /* of a relative: an entity */
    int parts[2];                  /* of a group */
    bool group, familiar;          /* familiar: "Mom", not "her mother" */
    bool introduced;               /* a listener knows what kind of thing or animal this is */
    int sentence, serial;          /* of the last mention */
};

struct teller {
    uint64_t seed, stream, counter;
    struct entity entities[MAX_ENTITIES];
    int entity_count;
    const char *used[MAX_USED];    /* entries that have been drawn */
    int used_count;
    int sentence, serial;
    int arguments[MAX_DEPTH][4], depth;
    int last_speaker; size_t last_speech_end;
    char *out; size_t length;      /* STORY_LIMIT bytes */
    bool overflow;
};

static void expand(struct teller *t, const char *text, const char *end);
static int find_entity(const struct teller *t, const char *name, size_t length);
static void expand_of(struct teller *t, const struct entity *entity, const char *text, size_t length);

/* ---- chance ------------------------------------------------------------------------------------------------------ */

static int draw(struct teller *t, int n) { return (int)random_below(t->seed, t->stream, t->counter++, (uint64_t)n); }
static bool chance(struct teller *t, int percent) { return draw(t, 100) < percent; }

/* An index that falls off like a power: u^2 n, so that the first of n is drawn with 1 / sqrt(n). */
static int draw_ranked(struct teller *t, int n) {
    double u = random_uniform(t->seed, t->stream, t->counter++);
    int index = (int)((double)n * u * u);
    return index < n ? index : n - 1;
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

static void put_bytes(struct teller *t, const char *text, size_t length) {
    if (t->length + length >= STORY_LIMIT) {
        t->overflow = true;
        return;
    }
    memcpy(t->out + t->length, text, length);
    t->length += length;
}
static void put(struct teller *t, const char *text) { put_bytes(t, text, strlen(text)); }

/* ---- words ------------------------------------------------------------------------------------------------------- */

static bool same(const char *text, size_t length, const char *name) {
    return strlen(name) == length && memcmp(text, name, length) == 0;
}

static const struct story_class *find_class(const char *name, size_t length) {
    for (int i = 0; i < story_class_count; i++)
        if (same(name, length, story_classes[i].name)) return &story_classes[i];
    return NULL;
}

/* Draws an entry that this story has not used yet, if a few tries find one. */
static const char *draw_entry(struct teller *t, const struct story_class *class) {
    const char *entry = NULL;
    for (int tries = 0; tries < 6; tries++) {
        bool common = class->core > 0 && chance(t, 85);
        entry = class->entries[common ? draw(t, class->core) : draw_ranked(t, class->count)];
        bool used = false;
        for (int i = 0; i < t->used_count; i++) used |= t->used[i] == entry;
        if (!used) break;
    }
    if (t->used_count < MAX_USED) t->used[t->used_count++] = entry;
    return entry;
}

static size_t field_length(const char *field) { return strcspn(field, "|"); }

/* The field `name` of an entry, or NULL. Field texts hold no alternatives at their top level, so | separates. Inside
 * braces it does not. */
static const char *find_field(const struct entity *entity, const char *name, size_t length, size_t *size) {
    const char *names = entity->class->fields, *field = entity->entry;
    for (;;) {
        int nested = 0;
        size_t at = 0;
        while (field[at] && (field[at] != '|' || nested)) {
            nested += (field[at] == '{') - (field[at] == '}');
            at++;
        }
        if (!field[at]) return NULL;
        field += at + 1;
        names += strspn(names, " ");
        size_t word = strcspn(names, " ");
        if (!word) return NULL;
        if (word == length && memcmp(names, name, length) == 0) break;
        names += word;
    }
    int nested = 0;
    size_t at = 0;
    while (field[at] && (field[at] != '|' || nested)) {
        nested += (field[at] == '{') - (field[at] == '}');
        at++;
    }
    *size = at;
    return field;
}

static const char *const irregular_plurals[][2] = {
    {"mouse", "mice"},      {"goose", "geese"},         {"wolf", "wolves"},      {"child", "children"},
    {"man", "men"},         {"woman", "women"},         {"sheep", "sheep"},      {"fish", "fish"},
    {"deer", "deer"},       {"leaf", "leaves"},         {"loaf", "loaves"},      {"knife", "knives"},
    {"shelf", "shelves"},   {"scarf", "scarves"},       {"tooth", "teeth"},      {"foot", "feet"},
    {"ox", "oxen"},         {"calf", "calves"},         {"elf", "elves"},        {"moose", "moose"},
    {"potato", "potatoes"}, {"tomato", "tomatoes"},     {"mango", "mangoes"},    {"hero", "heroes"},
    {"snowman", "snowmen"}, {"fisherman", "fishermen"}, {"dormouse", "dormice"}, {"salmon", "salmon"},
    {"trout", "trout"},     {"squid", "squid"},         {"half", "halves"},      {"postman", "postmen"},
    {"milkman", "milkmen"}, {"thief", "thieves"},       {"echo", "echoes"},      {"person", "people"},
    {"shrimp", "shrimp"},
};

/* The plural of the last word of a noun. "bag of flour" becomes "bags of flour". */
static void put_plural(struct teller *t, const char *noun, size_t length) {
    size_t head = length;
    for (size_t i = 0; i + 4 <= length; i++)
        if (memcmp(noun + i, " of ", 4) == 0) {
            head = i;
            break;
        }
    size_t begin = head;
    while (begin > 0 && noun[begin - 1] != ' ') begin--;
    const char *word = noun + begin;
    size_t size = head - begin;
    put_bytes(t, noun, begin);
    bool found = false;
    for (size_t i = 0; i < sizeof irregular_plurals / sizeof *irregular_plurals && !found; i++)
        if (same(word, size, irregular_plurals[i][0])) {
            put(t, irregular_plurals[i][1]);
            found = true;
        }
    if (!found && size > 1) {
        char last = word[size - 1], before = word[size - 2];
        if (last == 'y' && !strchr("aeiou", before)) put_bytes(t, word, size - 1), put(t, "ies");
        else if (last == 's' || last == 'x' || last == 'z' || (last == 'h' && (before == 'c' || before == 's')))
            put_bytes(t, word, size), put(t, "es");
        else put_bytes(t, word, size), put(t, "s");
    }
    put_bytes(t, noun + head, length - head);
}

/* ---- who is who -------------------------------------------------------------------------------------------------- */

enum { SUBJECT, OBJECT, POSSESSIVE, POSSESSIVE_ALONE, REFLEXIVE };
static const char *pronoun(char gender, int form) {
    static const char *const he[] = {"he", "him", "his", "his", "himself"}, *const she[] = {"she", "her", "her", "hers",
                                                                                            "herself"};
    static const char *const it[] = {"it", "it", "its", "its", "itself"}, *const they[] = {"they", "them", "their",
                                                                                           "theirs", "themselves"};
    return gender == 'm' ? he[form] : gender == 'f' ? she[form] : gender == 'p' ? they[form] : it[form];
}

static void mention(struct teller *t, struct entity *entity) {
    entity->sentence = t->sentence;
    entity->serial = ++t->serial;
    if (!entity->group) return;
    for (int i = 0; i < 2; i++) {
        t->entities[entity->parts[i]].sentence = t->sentence;
        t->entities[entity->parts[i]].serial = t->serial - 1;
    }
}

/* Is it clear whom a pronoun means? It was mentioned in this sentence or the last, and nobody else of the same pronoun
 * was. */
static bool clear_pronoun(const struct teller *t, const struct entity *entity) {
    if (entity->serial == 0 || entity->sentence < t->sentence - 1) return false;
    const char *word = pronoun(entity->gender, SUBJECT);
    for (int i = 0; i < t->entity_count; i++) {
        const struct entity *other = &t->entities[i];
        if (other == entity || other->serial == 0 || other->sentence < t->sentence - 1) continue;
        if (pronoun(other->gender, SUBJECT) == word && other->class->kind != STORY_PLAIN) return false;
        /* "they" is not clear either when two people were mentioned after the group. */
        if (entity->group && other->serial > entity->serial && other->gender != 'n' && other->gender != 'u' &&
            other != &t->entities[entity->parts[0]] && other != &t->entities[entity->parts[1]])
            return false;
    }
    return true;
}

static void put_reference(struct teller *t, struct entity *entity) {
    size_t length = field_length(entity->entry);
    bool first = !entity->introduced && entity->class->kind == STORY_NOUN;
    entity->introduced = true;
    if (first)
        put(t, entity->gender == 'p' || entity->gender == 'u' ? "some " : "a "), put_bytes(t, entity->entry, length);
    if (entity->name) put(t, first ? " named " : ""), put_bytes(t, entity->name, field_length(entity->name));
    else if (first) return;
    else if (entity->class->kind == STORY_NOUN) put(t, "the "), put_bytes(t, entity->entry, length);
    else if (entity->class->kind == STORY_RELATIVE && entity->familiar) {
        size_t size;
        const char *call = find_field(entity, "call", 4, &size);
        if (call) put_bytes(t, call, size);
    } else if (entity->class->kind == STORY_RELATIVE) {
        put(t, pronoun(t->entities[entity->owner].gender, POSSESSIVE));
        put(t, " ");
        put_bytes(t, entity->entry, length);
    } else if (entity->class->kind == STORY_PLAIN) expand_of(t, entity, entity->entry, length);
    else put_bytes(t, entity->entry, length);
}

/* Text that belongs to a word: in it @1 is whoever the word was bound for, or the word itself, or the hero h. */
static void expand_of(struct teller *t, const struct entity *entity, const char *text, size_t length) {
    int self = entity >= t->entities && entity < t->entities + t->entity_count ? (int)(entity - t->entities) : -1;
    int index = entity->owner >= 0                               ? entity->owner
                : entity->class->kind == STORY_PLAIN || self < 0 ? find_entity(t, "h", 1)
                                                                 : self;
    if (t->depth + 1 >= MAX_DEPTH) {
        t->overflow = true;
        return;
    }
    for (int i = 0; i < 4; i++) t->arguments[t->depth][i] = index;
    t->depth++;
    expand(t, text, text + length);
    t->depth--;
}

static void refer(struct teller *t, struct entity *entity) {
    if (entity->group) {
        refer(t, &t->entities[entity->parts[0]]);
        put(t, " and ");
        refer(t, &t->entities[entity->parts[1]]);
    } else {
        put_reference(t, entity);
    }
    mention(t, entity);
}

static void put_possessive(struct teller *t, struct entity *entity) {
    refer(t, entity);
    put(t, entity->gender == 'p' && !entity->group && t->length && t->out[t->length - 1] == 's' ? "'" : "'s");
}

static void put_form(struct teller *t, struct entity *entity, const char *form, size_t length) {
    size_t noun = field_length(entity->entry), size;
    if (length > 1 || (length == 1 && (*form == 'a' || *form == 'n'))) entity->introduced = true;
    if (length == 0) {
        refer(t, entity);
    } else if (length == 1 && strchr("sop", *form)) {
        bool clear = clear_pronoun(t, entity) && chance(t, *form == 's' ? 50 : 75);
        if (clear) {
            put(t, pronoun(entity->gender, *form == 's' ? SUBJECT : *form == 'o' ? OBJECT : POSSESSIVE));
            mention(t, entity);
        } else if (*form == 'p') put_possessive(t, entity);
        else refer(t, entity);
    } else if (same(form, length, "he")) put(t, pronoun(entity->gender, SUBJECT)), mention(t, entity);
    else if (same(form, length, "him")) put(t, pronoun(entity->gender, OBJECT)), mention(t, entity);
    else if (same(form, length, "his")) put(t, pronoun(entity->gender, POSSESSIVE)), mention(t, entity);
    else if (same(form, length, "hers")) put(t, pronoun(entity->gender, POSSESSIVE_ALONE)), mention(t, entity);
    else if (same(form, length, "himself")) put(t, pronoun(entity->gender, REFLEXIVE)), mention(t, entity);
    else if (same(form, length, "was")) put(t, entity->gender == 'p' ? "were" : "was");
    else if (same(form, length, "is")) put(t, entity->gender == 'p' ? "are" : "is");
    else if (same(form, length, "has")) put(t, entity->gender == 'p' ? "have" : "has");
    else if (same(form, length, "it")) put(t, pronoun(entity->gender, OBJECT)), mention(t, entity);
    else if (same(form, length, "this")) put(t, entity->gender == 'p' ? "these" : "this");
    else if (same(form, length, "name")) refer(t, entity);
    else if (same(form, length, "call")) {
        const char *call = entity->class->kind == STORY_RELATIVE ? find_field(entity, "call", 4, &size) : NULL;
        if (call) put_bytes(t, call, size);
        else if (entity->group) put(t, "my friends");
        else if (entity->class->kind == STORY_NOUN && !entity->name) put(t, "dear "), put_bytes(t, entity->entry, noun);
        else put_reference(t, entity);
    } else if (same(form, length, "one"))
        put(t, entity->gender == 'p' ? "some" : entity->gender == 'u' ? "some" : "one");
    else if (same(form, length, "a")) {
        put(t, entity->gender == 'p' || entity->gender == 'u' ? "some " : "a ");
        put_bytes(t, entity->entry, noun);
        mention(t, entity);
    } else if (same(form, length, "n")) put_bytes(t, entity->entry, noun), mention(t, entity);
    else if (same(form, length, "ns")) {
        if (entity->gender == 'p' || entity->gender == 'u') put_bytes(t, entity->entry, noun);
        else put_plural(t, entity->entry, noun);
    } else if (same(form, length, "kind")) {
        if (entity->class->kind == STORY_NAME) put(t, entity->gender == 'm' ? "boy" : "girl");
        else put_bytes(t, entity->entry, noun);
    } else {
        const char *field = find_field(entity, form, length, &size);
        if (field) {
            expand_of(t, entity, field, size);
            if (entity->serial) mention(t, entity);
        } else put(t, "<?>");   /* a slip in the tables: the test looks for this mark */
    }
}

/* ---- binding ----------------------------------------------------------------------------------------------------- */

static int find_entity(const struct teller *t, const char *name, size_t length) {
    if (length == 1 && *name >= '1' && *name <= '4' && t->depth > 0) return t->arguments[t->depth - 1][*name - '1'];
    for (int i = t->entity_count; i-- > 0;)
        if (strlen(t->entities[i].variable) == length && strncasecmp(t->entities[i].variable, name, length) == 0)
            return i;
    return -1;
}

static bool gender_in_use(const struct teller *t, char gender) {
    for (int i = 0; i < t->entity_count; i++)
        if (t->entities[i].gender == gender && t->entities[i].class->kind != STORY_RELATIVE) return true;
    return false;
}

static void set_entry(struct teller *t, struct entity *entity, const struct story_class *class, const char *entry) {
    entity->class = class;
    entity->gender = class->gender;
    if (entry[0] && entry[1] == ':') {
        entity->gender = entry[0];
        entry += 2;
    }
    entity->entry = entry;
    if (entity->gender == 'x')
        entity->gender = gender_in_use(t, 'm') && !gender_in_use(t, 'f')   ? 'f'
                         : gender_in_use(t, 'f') && !gender_in_use(t, 'm') ? 'm'
                         : chance(t, 50)                                   ? 'm'
                                                                           : 'f';
}

/* [variable=class,class*] [variable=class:owner] [variable=one+other] */
static void bind(struct teller *t, const char *text, const char *end) {
    const char *equals = memchr(text, '=', (size_t)(end - text));
    if (!equals || t->entity_count == MAX_ENTITIES || equals - text >= NAME_SIZE) {
        put(t, "<?>");
        return;
    }
    struct entity entity = { .owner = -1 };
    memcpy(entity.variable, text, (size_t)(equals - text));
    const char *value = equals + 1;
    const char *plus = memchr(value, '+', (size_t)(end - value));
    if (plus) {
        entity.parts[0] = find_entity(t, value, (size_t)(plus - value));
        entity.parts[1] = find_entity(t, plus + 1, (size_t)(end - plus - 1));
        if (entity.parts[0] < 0 || entity.parts[1] < 0) {
            put(t, "<?>");
            return;
        }
        entity.group = true;
        entity.gender = 'p';
        entity.class = t->entities[entity.parts[0]].class;
        entity.entry = t->entities[entity.parts[0]].entry;
        t->entities[t->entity_count++] = entity;
        return;
    }
    const char *colon = memchr(value, ':', (size_t)(end - value)), *classes_end = colon ? colon : end;
    if (colon) entity.owner = find_entity(t, colon + 1, (size_t)(end - colon - 1));
    bool named = classes_end > value && classes_end[-1] == '*';
    if (named) classes_end--;
    int count = 1;
    for (const char *p = value; p < classes_end; p++) count += *p == ',';
    const struct story_class *class = NULL;
    /* Of several classes (boy, girl) one whose gender is not taken yet is preferred, so that pronouns are clear. */
    for (int tries = 0; tries < 2; tries++) {
        int wanted = draw(t, count);
        const char *p = value;
        while (wanted-- > 0) p = (const char *)memchr(p, ',', (size_t)(classes_end - p)) + 1;
        const char *comma = memchr(p, ',', (size_t)(classes_end - p));
        class = find_class(p, (size_t)((comma ? comma : classes_end) - p));
        if (!class || !gender_in_use(t, class->gender)) break;
    }
    if (!class || (class->kind == STORY_RELATIVE && entity.owner < 0)) {
        put(t, "<?>");
        return;
    }
    set_entry(t, &entity, class, draw_entry(t, class));
    if (class->kind == STORY_RELATIVE) entity.familiar = chance(t, 40);
    if (named) {
        const struct story_class *names = find_class("petname", 7);
        if (names) entity.name = draw_entry(t, names);
        if (entity.gender == 'n') entity.gender = chance(t, 50) ? 'm' : 'f';
    }
    t->entities[t->entity_count++] = entity;
}

/* ---- speech ------------------------------------------------------------------------------------------------------ */

/* A mood's verbs and manners are classes: say_NAME ("said sadly") and beat_NAME ("wiped @1.his eyes"). */
static void put_class(struct teller *t, const char *prefix, const char *name, size_t length) {
    char full[48];
    snprintf(full, sizeof full, "%s%.*s", prefix, (int)length, name);
    const struct story_class *class = find_class(full, strlen(full));
    if (!class) {
        put(t, "<?>");
        return;
    }
    const char *entry = class->entries[draw_ranked(t, class->count)];
    expand(t, entry, entry + strlen(entry));
}

/* Where the first sentence of a speech ends, 0 where it has only one. */
static size_t first_sentence(const char *speech, size_t length) {
    for (size_t i = 0; i + 2 < length; i++)
        if (strchr(".!?", speech[i]) && speech[i + 1] == ' ') return i + 1;
    return 0;
}

/* "said Lily" or "she said", with the manner behind. */
static void put_tag(struct teller *t, struct entity *speaker, const char *verb, bool verb_first) {
    bool by_pronoun = clear_pronoun(t, speaker) && chance(t, 50);
    size_t word = strcspn(verb, " ");
    if (by_pronoun) {
        put(t, pronoun(speaker->gender, SUBJECT));
        mention(t, speaker);
        put(t, " ");
        put(t, verb);
    } else if (verb_first && (speaker->class->kind == STORY_NAME || speaker->name ||
                              speaker->class->kind == STORY_NOUN || speaker->group)) {
        put_bytes(t, verb, word);
        put(t, " ");
        refer(t, speaker);
        put(t, verb + word);
    } else {
        refer(t, speaker);
        put(t, " ");
        put(t, verb);
    }
}

/* <h mood:text> */
static void speak(struct teller *t, const char *text, const char *end) {
    const char *colon = memchr(text, ':', (size_t)(end - text));
    if (!colon) {
        put(t, "<?>");
        return;
    }
    const char *space = memchr(text, ' ', (size_t)(colon - text));
    int index = find_entity(t, text, (size_t)((space ? space : colon) - text));
    if (index < 0) {
        put(t, "<?>");
        return;
    }
    struct entity *speaker = &t->entities[index];
    size_t begin = t->length;
    int sentence = t->sentence;
    expand(t, colon + 1, end);
    char speech[1024];
    size_t length = t->length - begin;
    if (length >= sizeof speech) {
        t->overflow = true;
        length = sizeof speech - 1;
    }
    memcpy(speech, t->out + begin, length);
    while (length && speech[length - 1] == ' ') length--;
    t->length = begin;
    t->sentence = sentence;
    size_t back = begin;
    while (back && (t->out[back - 1] == ANCHOR || t->out[back - 1] == ' ')) back--;
    bool adjacent = t->last_speaker >= 0 && t->last_speech_end == back, follows = adjacent && t->last_speaker != index;

    char mark = length ? speech[length - 1] : '.';
    size_t first = first_sentence(speech, length);
    char first_mark = first ? speech[first - 1] : mark;
    const char *mood = space ? space + 1 : NULL;
    size_t mood_length = space ? (size_t)(colon - space - 1) : 0;
    if (!mood) {
        mood = first_mark == '?' ? "ask" : first_mark == '!' ? "cry" : follows ? "reply" : "plain";
        mood_length = strlen(mood);
    }
    char verb[160];
    t->depth++;
    if (t->depth >= MAX_DEPTH) {
        t->overflow = true;
        t->depth--;
        return;
    }
    t->arguments[t->depth - 1][0] = index;
    size_t here = t->length;
    put_class(t, "say_", mood, mood_length);
    size_t verb_length = t->length - here < sizeof verb ? t->length - here : sizeof verb - 1;
    memcpy(verb, t->out + here, verb_length);
    verb[verb_length] = 0;
    t->length = here;

    char anchor = ANCHOR;
    if (adjacent && !follows && back) {   /* goes on speaking: "...," said Lily. "..." */
        bool open = t->out[back - 1] == '"';
        if (open) t->length = back - 1;
        put(t, open ? " " : "\""), put_bytes(t, speech, length), put(t, "\"");
        t->depth--;
        t->sentence = sentence + 1;
        t->last_speech_end = t->length;
        put(t, " "), put_bytes(t, &anchor, 1);
        return;
    }
    int form = draw(t, 100);
    put_bytes(t, &anchor, 1);
    if (follows && form < 25) {                            /* "..." */
        put(t, "\""), put_bytes(t, speech, length), put(t, "\"");
    } else if (form < 40 && !(mark == '!' && !first)) {    /* Lily said, "..." */
        put_tag(t, speaker, verb, false);
        put(t, ", \""), put_bytes(t, speech, length), put(t, "\"");
    } else if (form < 52) {                                /* Lily smiled. "..." */
        bool by_pronoun = clear_pronoun(t, speaker) && chance(t, 50);
        if (by_pronoun) put(t, pronoun(speaker->gender, SUBJECT)), mention(t, speaker);
        else refer(t, speaker);
        put(t, " ");
        put_class(t, "beat_", mood, mood_length);
        put(t, ". \""), put_bytes(t, speech, length), put(t, "\"");
    } else {                                               /* "...," said Lily. "..." */
        size_t head = first && (form < 94 || first < length) ? first : length;
        if (first && form >= 90) head = length;
        put(t, "\"");
        char last = speech[head - 1];
        put_bytes(t, speech, head - 1);
        put_bytes(t, last == '.' ? "," : &last, 1);
        put(t, "\" ");
        put_tag(t, speaker, verb, true);
        put(t, ".");
        if (head < length) put(t, " \""), put_bytes(t, speech + head + 1, length - head - 1), put(t, "\"");
    }
    t->depth--;
    t->sentence = sentence + 1;
    speaker->sentence = t->sentence - 1;
    t->last_speaker = index;
    t->last_speech_end = t->length;
    put(t, " ");
    put_bytes(t, &anchor, 1);
}

/* ---- the language ------------------------------------------------------------------------------------------------ */

static const char *closing(const char *text, const char *end, char open, char close) {
    int nested = 0;
    for (const char *p = text; p < end; p++) {
        if (*p == open) nested++;
        else if (*p == close && --nested == 0) return p;
    }
    return end;
}

/* One of the alternatives of [text, end), separated by | outside of nested braces. */
static void choose(struct teller *t, const char *text, const char *end) {
    int count = 1, nested = 0;
    for (const char *p = text; p < end; p++) {
        nested += (*p == '{') - (*p == '}');
        count += *p == '|' && nested == 0;
    }
    int wanted = draw(t, count);
    const char *begin = text, *p = text;
    for (nested = 0; p < end; p++) {
        nested += (*p == '{') - (*p == '}');
        if (*p != '|' || nested) continue;
        if (wanted-- == 0) break;
        begin = p + 1;
    }
    expand(t, begin, p);
}

static void call(struct teller *t, const char *name, size_t length, const char *arguments, const char *end) {
    const struct story_rule *rule = NULL;
    for (int i = 0; i < story_rule_count && !rule; i++)
        if (same(name, length, story_rules[i].name)) rule = &story_rules[i];
    if (!rule || t->depth + 1 >= MAX_DEPTH) {
        put(t, "<?>");
        return;
    }
    int values[4] = { -1, -1, -1, -1 };
    for (int i = 0; i < 4 && arguments && arguments < end; i++) {
        const char *comma = memchr(arguments, ',', (size_t)(end - arguments));
        const char *stop = comma ? comma : end;
        values[i] = find_entity(t, arguments, (size_t)(stop - arguments));
        arguments = stop + 1;
    }
    memcpy(t->arguments[t->depth++], values, sizeof values);
    choose(t, rule->body, rule->body + strlen(rule->body));
    t->depth--;
}

static size_t word_length(const char *text, const char *end) {
    size_t n = 0;
    while (text + n < end && (isalnum((unsigned char)text[n]) || text[n] == '_')) n++;
    return n;
}

/* Makes the letter at `position` a capital one, past anchors and quotation marks. */
static void capitalize(struct teller *t, size_t position) {
    while (position < t->length && !isalnum((unsigned char)t->out[position])) position++;
    if (position < t->length) t->out[position] = (char)toupper((unsigned char)t->out[position]);
}

/* @variable.form and #class.form */
/* Is the text so far at the beginning of a sentence, but not of a paragraph? */
static bool between_sentences(const struct teller *t) {
    size_t n = t->length;
    while (n && (t->out[n - 1] == ' ' || t->out[n - 1] == ANCHOR)) n--;
    return n && n < t->length && strchr(".!?\"", t->out[n - 1]);
}

static const char *reference(struct teller *t, const char *text, const char *end) {
    size_t length = word_length(text + 1, end), here = t->length;
    const char *after = text + 1 + length, *form = after;
    size_t form_length = 0;
    if (after < end && *after == '.' && (form_length = word_length(after + 1, end)) > 0 &&
        islower((unsigned char)after[1]))
        form = after + 1, after += 1 + form_length;
    else form_length = 0;
    bool capital = isupper((unsigned char)text[1]);
    if (*text == '@') {
        int index = find_entity(t, text + 1, length);
        if (index < 0) put(t, "<?>");
        else if (form_length == 0 && after < end && *after == ' ' && strncmp(after, " and @", 6) &&
                 t->entities[index].introduced && t->entities[index].class->kind != STORY_PLAIN &&
                 between_sentences(t) &&
                 /* a sentence about the one of the last sentence often begins with the pronoun */
                 chance(t, 35))
            put_form(t, &t->entities[index], "s", 1);
        else put_form(t, &t->entities[index], form, form_length);
    } else {
        char name[48];
        snprintf(name, sizeof name, "%.*s", (int)length, text + 1);
        name[0] = (char)tolower((unsigned char)name[0]);
        const struct story_class *class = find_class(name, strlen(name));
        if (!class) put(t, "<?>");
        else {
            struct entity entity = { .owner = -1 };
            set_entry(t, &entity, class, draw_entry(t, class));
            if (form_length == 0 && class->kind == STORY_NOUN) put_form(t, &entity, "n", 1);
            else put_form(t, &entity, form, form_length);
        }
    }
    if (capital) capitalize(t, here);
    return after;
}

static void expand(struct teller *t, const char *text, const char *end) {
    while (text < end && !t->overflow) {
        const char *stop;
        switch (*text) {
        case '{':
            stop = closing(text, end, '{', '}');
            choose(t, text + 1, stop);
            text = stop + 1;
            break;
        case '[':
            stop = closing(text, end, '[', ']');
            bind(t, text + 1, stop);
            text = stop + 1;
            break;
        case '<':
            stop = closing(text, end, '<', '>');
            speak(t, text + 1, stop);
            text = stop + 1;
            break;
        case '&': {
            size_t length = word_length(text + 1, end);
            const char *after = text + 1 + length;
            if (after < end && *after == '(') {
                stop = closing(after, end, '(', ')');
                call(t, text + 1, length, after + 1, stop);
                text = stop + 1;
            } else {
                call(t, text + 1, length, NULL, NULL);
                text = after;
            }
            break;
        }
        case '@': case '#':
            text = reference(t, text, end);
            break;
        default:
            if (strchr(".!?", *text)) t->sentence++;
            put_bytes(t, text++, 1);
        }
    }
}

/* ---- finishing --------------------------------------------------------------------------------------------------- */

/* Does a word begin with a vowel when it is spoken? */
static bool vowel_sound(const char *word) {
    static const char *const vowels[] = {"hour", "honest", "heir", "honour"}, *const consonants[] = {
                                                                                  "uni", "use",  "usu",    "eu",
                                                                                  "one", "once", "ukulele"};
    for (size_t i = 0; i < sizeof vowels / sizeof *vowels; i++)
        if (strncasecmp(word, vowels[i], strlen(vowels[i])) == 0) return true;
    for (size_t i = 0; i < sizeof consonants / sizeof *consonants; i++)
        if (strncasecmp(word, consonants[i], strlen(consonants[i])) == 0 &&
            !isalpha((unsigned char)word[strlen(consonants[i])] * (strcmp(consonants[i], "one") == 0)))
            return false;
    return strchr("aeiouAEIOU", *word) && *word;
}

/* Spaces, articles and capitals of the raw text, into `text`. Returns the length. */
static size_t finish(const char *raw, size_t length, char text[STORY_LIMIT]) {
    size_t n = 0;
    bool capital = true, quoted = false;
    for (size_t i = 0; i < length && n + 4 < STORY_LIMIT; i++) {
        char c = raw[i];
        if (c == ANCHOR) {
            capital = true;
            continue;
        }
        if (c == ' ' || c == '\n') {
            if (n == 0) continue;
            if (c == '\n') {
                while (n && (text[n - 1] == ' ' || text[n - 1] == '\n')) n--;
                capital = true;
            } else if (text[n - 1] == ' ' || text[n - 1] == '\n') continue;
            text[n++] = c;
            continue;
        }
        if (strchr(",.!?;:", c) && n && text[n - 1] == ' ') n--;
        if (c == '"') {
            quoted = !quoted;
            if (quoted) capital = true;
            else capital = n > 0 && text[n - 1] == '.';
            text[n++] = c;
            continue;
        }
        bool begins = n == 0 || !(isalpha((unsigned char)text[n - 1]) || text[n - 1] == '\'');
        if (begins && (c == 'a' || c == 'A') && i + 1 < length) {
            /* a or an */
            size_t word = raw[i + 1] == 'n' ? 2 : 1, next = i + word;
            if (next < length && raw[next] == ' ') {
                while (next < length && (raw[next] == ' ' || raw[next] == ANCHOR)) next++;
                text[n++] = capital ? 'A' : c;
                if (next < length && vowel_sound(raw + next)) text[n++] = 'n';
                capital = false;
                i += word - 1;
                continue;
            }
        }
        if (capital && isalnum((unsigned char)c)) {
            c = (char)toupper((unsigned char)c);
            capital = false;
        }
        if (strchr(".!?", c)) capital = true;
        text[n++] = c;
    }
    while (n && (text[n - 1] == ' ' || text[n - 1] == '\n')) n--;
    text[n] = 0;
    return n;
}

static int count_words(const char *text) {
    int words = 0;
    for (bool inside = false; *text; text++) {
        bool space = *text == ' ' || *text == '\n';
        if (!space && !inside) words++;
        inside = !space;
    }
    return words;
}

size_t story_write(uint64_t seed, uint64_t index, char text[STORY_LIMIT]) {
    static const struct story_plots *const files[] = { &story_plots_home, &story_plots_animals, &story_plots_world };
    enum { FILES = sizeof files / sizeof *files };
    char raw[STORY_LIMIT];
    struct teller teller;
    uint64_t counter = 0;
    int plots = 0;
    for (int i = 0; i < FILES; i++) plots += files[i]->count;
    for (;;) {
        memset(&teller, 0, sizeof teller);
        teller.seed = seed;
        teller.stream = random_stream("stories") + index;
        teller.counter = counter;
        teller.out = raw;
        teller.last_speaker = -1;
        teller.sentence = 1;
        int wanted = draw(&teller, plots), file = 0;
        while (wanted >= files[file]->count) wanted -= files[file++]->count;
        const char *body = files[file]->plots[wanted].body;
        expand(&teller, body, body + strlen(body));
        size_t length = finish(raw, teller.length, text);
        int words = count_words(text);
        /* Too long or too short a story is told anew, with the numbers that follow. */
        if (!teller.overflow && words >= STORY_WORDS_MIN && words <= STORY_WORDS_MAX) return length;
        counter = teller.counter;
    }
}
