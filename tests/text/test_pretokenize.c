/* Pre-tokenizers: stored pieces, the tables, every step written down a second time and run on random text, hostile
 * runs, safe cuts, recognition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/random.h"
#include "text/pretokenize.h"
#include "text/unicode.h"
#include "text/utf8.h"

#define CHARACTERS 0x110000

static struct error error;

/* ---- stored pieces ----------------------------------------------------------------------------------------------- */

/* The pieces of `text` are those of `expected`, which end in "|". */
static void check_pieces(enum pipeline pipeline, const char *text, size_t size, const char *expected) {
    char *found = malloc(2 * size + 1), *end_of_found = found;
    struct pieces pieces;
    size_t begin, end, last = 0;
    pieces_begin(&pieces, pipeline, text, size);
    while (pieces_next(&pieces, &begin, &end)) {
        assert_true(begin == last && end > begin && end <= size);
        memcpy(end_of_found, text + begin, end - begin);
        end_of_found += end - begin;
        *end_of_found++ = '|';
        last = end;
    }
    *end_of_found = '\0';
    assert_int_equal(last, size);
    for (char *c = found; c < end_of_found; c++)
        if (!*c) *c = '@';   /* NUL is written as @ */
    assert_string_equal(found, expected);
    free(found);
}

struct vector { const char *text, *pieces; };
static void check_vectors(enum pipeline pipeline, const struct vector *vectors, size_t count) {
    for (size_t i = 0; i < count; i++)
        check_pieces(pipeline, vectors[i].text, strlen(vectors[i].text), vectors[i].pieces);
}
#define CHECK_VECTORS(pipeline, vectors) check_vectors(pipeline, vectors, sizeof(vectors) / sizeof *(vectors))

/* The table at the end of formats.md 2.10, then what the reference says about nested steps and corners. */
static void pieces_of_v3(void **state) {
    (void)state;
    const struct vector vectors[] = {
        {"", ""},
        {" Hello  world", " Hello| | world|"},
        {"x = 42;\n", "x| =| |42|;\n|"},
        {"\t\tif (a_b != 3.14)\n", "\t|\tif| (|a|_b| !=| |3|.|14|)\n|"},
        {"a  5", "a|  |5|"},
        {"  \n\n  x", "  \n\n| | x|"},
        {"(abc)", "(abc|)|"},
        {"  (abc)", " | (|abc|)|"},
        {"C++20", "C|++|20|"},
        {"$100", "$|100|"},
        {"日本語テスト123円", "日本語テスト|123|円|"},
        {"価格は1,234円です。", "価格は|1|,|234|円です|。|"},
        {"a\r\nb", "a|\r\n|b|"},
        {"\r\r", "\r\r|"},
        {"x \t y", "x| \t| y|"},
        {"\u3000全角", "\u3000|全角|"},
        {"a\u200Bb", "a|\u200Bb|"},
        {"Ⅷ½", "Ⅷ½|"},
        {"...\n\n\nx", "...\n\n\n|x|"},
        {"\u30FB\n\u30A2\u30FB\u30A4\u3099\u30A6", "\u30FB|\n|\u30A2|\u30FB|\u30A4\u3099\u30A6|"},
        {"(caf\u00E9) .\u00E9 ((x", "(caf|\u00E9|)| .|\u00E9| ((|x|"},
        {"'re $x", "'re| $|x|"},
        {"\u3040\u3041", "\u3040\u3041|"},
        {"\u200B\u200B\u200Bx\u200B ", "\u200B\u200B|\u200Bx|\u200B| |"},
        {"a\302\205\n\u3000b", "a|\302\205\n|\u3000b|"},
        {"½12345６", "½12|345|６|"},
        {"  \u0301", " | \u0301|"},
        {" \u3000!", " |\u3000|!|"},
        {"!\r\n\r\nx", "!\r\n\r\n|x|"},
        {"1234567", "123|456|7|"},
        {"a   \n  b", "a|   \n| | b|"},
        {" \u0301x", " \u0301x|"},
    };
    CHECK_VECTORS(PIPELINE_V3, vectors);
    check_pieces(PIPELINE_V3, "\0\1x", 3, "@|\1x|");
}

static void pieces_of_v1(void **state) {
    (void)state;
    const struct vector vectors[] = {
        {"F\u00FChrer na\u00EFve", "F|\u00FC|hrer| na|\u00EF|ve|"}, /* ASCII letters are punctuation too */
        {"  \u00E9t\u00E9  x", " | \u00E9|t|\u00E9| | x|"},
        {"1   2", "1|   |2|"},
        {"a     b", "a|    | b|"},
        {"1 \u3000a", "1| |\u3000|a|"},
        {"x  \u3000a", "x|  |\u3000|a|"},
        {"\u3000\uFF01a", "\u3000|\uFF01|a|"},
        {"円。テスト12", "円|。|テスト|1|2|"},
        {"\1  \2", "\1  \2|"},
        {"a \n  b\n\n", "a| |\n| | b|\n|\n|"},
        {"w048 7tuijk", "w|0|4|8| |7|tuijk|"},
        {"Привет, мир!", "Привет|,| мир|!|"},
        {"x\u2003 y", "x|\u2003| y|"},
        {"\u2003\u2003\u00E9", "\u2003|\u2003|\u00E9|"},
        {"\u00BFQu\u00E9? \u00ABs\u00ED\u00BB", "\u00BF|Qu|\u00E9|?| \u00AB|s|\u00ED|\u00BB|"},
        {"\uFF15\uFF21\uFF15", "\uFF15|\uFF21|\uFF15|"},
        {"a\u2019s  (b)", "a|\u2019|s| | (|b|)|"},
        {"Hello, y'all! 3.14", "Hello|,| y|'|all|!| |3|.|1|4|"},
        {"abc   ", "abc|   |"},
    };
    CHECK_VECTORS(PIPELINE_V1, vectors);
}

static void pieces_of_coder(void **state) {
    (void)state;
    const struct vector vectors[] = {
        {"F\u00FChrer na\u00EFve", "F\u00FChrer| na\u00EFve|"},
        {"  \u00E9t\u00E9  x", " | \u00E9t\u00E9| | x|"},
        {"1 \u3000a", "1| |\u3000|a|"},
        {"\1  \2", "\1  \2|"},
        {"a \n  b\n\n", "a| |\n| | b|\n|\n|"},
        {"x\u2003 y", "x|\u2003| y|"},
        {"\u00BFQu\u00E9? \u00ABs\u00ED\u00BB", "\u00BF|Qu\u00E9|?| \u00AB|s\u00ED|\u00BB|"},
        {"円。テスト12", "円|。|テスト|1|2|"},
    };
    CHECK_VECTORS(PIPELINE_CODER_V1, vectors);
}

static void pieces_of_gpt2(void **state) {
    (void)state;
    const struct vector vectors[] = {
        {"I'm we've they'll 'tis", "I|'m| we|'ve| they|'ll| '|tis|"},
        {"'s's", "'s|'s|"},
        {"a's 's 'S", "a|'s| '|s| '|S|"},
        {"  x  ", " | x|  |"},
        {"foo_bar(1,2)  \n\n x", "foo|_|bar|(|1|,|2|)|  \n\n| x|"},
        {"na\u00EFve e\u0301 1\u00BD", "na\u00EFve| e|\u0301| 1\u00BD|"},
        {"!'s a'rest", "!'|s| a|'re|st|"},
        {"\u3000\u3000a", "\u3000|\u3000|a|"},
        {"don't\n\n\nx", "don|'t|\n\n|\n|x|"},
        {"'l 'd'", "'|l| '|d|'|"},
    };
    CHECK_VECTORS(PIPELINE_GPT2, vectors);
}

static void the_whole_is_one_piece(void **state) {
    (void)state;
    check_pieces(PIPELINE_WHOLE, "a b\n\xFF", 5, "a b\n\xFF|");
    check_pieces(PIPELINE_WHOLE, "", 0, "");
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/* What the patterns spell out, from the patterns. */
static bool v1_letters[CHARACTERS], v1_punctuation[CHARACTERS], v1_cjk[CHARACTERS], v3_cjk[CHARACTERS];

static void read_class(bool *members, enum pipeline pipeline, size_t step) {
    json_t *root = pipeline_to_json(pipeline);
    const char *pattern = json_string_value(json_object_get(
        json_object_get(json_array_get(json_object_get(root, "pretokenizers"), step), "pattern"), "Regex"));
    const uint8_t *at = (const uint8_t *)strchr(pattern, '[') + 1;
    for (uint32_t first, last; *at != ']';) {
        size_t length;
        bool bad;
        first = last = utf8_next(at, strlen((const char *)at), &length, &bad);
        at += length;
        if (*at == '-') {
            last = utf8_next(at + 1, strlen((const char *)at + 1), &length, &bad);
            at += 1 + length;
        }
        for (; first <= last; first++) members[first] = true;
    }
    assert_string_equal((const char *)at, "]+");
    json_decref(root);
}

static int read_classes(void **state) {
    (void)state;
    read_class(v1_letters, PIPELINE_V1, 1);
    read_class(v1_punctuation, PIPELINE_V1, 2);
    read_class(v1_cjk, PIPELINE_V1, 4);
    read_class(v3_cjk, PIPELINE_V3, 1);
    return 0;
}

/* Every character's bits are those of the file that the tables are made from, and of the patterns. */
static void tables_hold_the_classes(void **state) {
    (void)state;
    json_t *root;
    size_t index;
    json_t *entry;
    assert_int_equal(json_load_path(&root, "tests/text/data/unicode-classes.json", &error), STATUS_OK);
    uint16_t *expected = calloc(CHARACTERS, sizeof *expected);
    const char *names[] = { "L", "M", "N", "P", "S", "space", "digits", "word" };
    json_array_foreach(json_object_get(root, "classes"), index, entry) {
        unsigned bit = 0;
        for (unsigned i = 0; i < 8; i++)
            if (!strcmp(names[i], json_string_value(json_object_get(entry, "class")))) bit = 1u << i;
        size_t count = 0;
        for (const char *at = json_string_value(json_object_get(entry, "ranges")); *at;) {
            char *end;
            unsigned long first = strtoul(at, &end, 16), last = *end == '-' ? strtoul(end + 1, &end, 16) : first;
            for (; first <= last; first++, count++) expected[first] |= (uint16_t)bit;
            at = end + (*end == ' ');
        }
        assert_int_equal(count, json_integer_value(json_object_get(entry, "count")));
    }
    json_decref(root);
    size_t letters = 0;
    for (uint32_t c = 0; c < CHARACTERS; c++) {
        unsigned spelt = (c == '\r' || c == '\n' ? UNICODE_LINE_END : 0) | (v1_letters[c] ? UNICODE_V1_LETTER : 0) |
                         (v1_punctuation[c] ? UNICODE_V1_PUNCTUATION : 0) | (v1_cjk[c] ? UNICODE_V1_CJK : 0) |
                         (v3_cjk[c] ? UNICODE_V3_CJK : 0);
        if (unicode_class(c) != (expected[c] | spelt))
            fail_msg("U+%04X: found %04X, expected %04X", c, unicode_class(c), expected[c] | spelt);
        letters += v1_letters[c];
    }
    assert_int_equal(letters, 2729);
    free(expected);
}

/* ---- the steps, one inside the other, as the patterns say it ----------------------------------------------------- */

/* A text as code points, and the ends of its pieces. */
struct plain { uint32_t text[512]; size_t size, ends[512], count; };

static bool is_in(uint32_t c, unsigned classes) { return unicode_class(c) & classes; }

/* The end of a match that begins at `at` and stays below `end`, or `at`. */
typedef size_t (*matcher)(const uint32_t *text, size_t at, size_t end);

static size_t spaces(const uint32_t *text, size_t at, size_t end) {
    while (at < end && is_in(text[at], UNICODE_SPACE)) at++;
    return at;
}

/* \s?[SET]+, the blank first taken, then given back */
static size_t blank_and_run(const uint32_t *text, size_t at, size_t end, const bool *set, unsigned classes,
                            bool any_space) {
    for (int taken = 1; taken >= 0; taken--) {
        size_t to = at;
        if (taken) {
            if (!(any_space ? is_in(text[at], UNICODE_SPACE) : text[at] == ' ')) continue;
            to++;
        }
        size_t from = to;
        while (to < end && (set ? set[text[to]] : is_in(text[to], classes))) to++;
        if (to > from) return to;
    }
    return at;
}

static size_t line_end(const uint32_t *text, size_t at, size_t end) {
    return at < end && (text[at] == '\r' || text[at] == '\n') ? at + 1 : at;
}
static size_t v1_letter_run(const uint32_t *text, size_t at, size_t end) {
    return blank_and_run(text, at, end, v1_letters, 0, true);
}
static size_t v1_punctuation_run(const uint32_t *text, size_t at, size_t end) {
    return blank_and_run(text, at, end, v1_punctuation, 0, true);
}
static size_t letter_run(const uint32_t *text, size_t at, size_t end) {
    return blank_and_run(text, at, end, NULL, UNICODE_LETTER, true);
}
static size_t punctuation_run(const uint32_t *text, size_t at, size_t end) {
    return blank_and_run(text, at, end, NULL, UNICODE_PUNCTUATION, true);
}
static size_t trailing_spaces(const uint32_t *text, size_t at, size_t end) {
    return spaces(text, at, end) == end ? end : at;
}
static size_t v1_cjk_run(const uint32_t *text, size_t at, size_t end) {
    while (at < end && v1_cjk[text[at]]) at++;
    return at;
}
static size_t v3_cjk_run(const uint32_t *text, size_t at, size_t end) {
    while (at < end && v3_cjk[text[at]]) at++;
    return at;
}
static size_t digit(const uint32_t *text, size_t at, size_t end) {
    return at < end && is_in(text[at], UNICODE_DIGIT) ? at + 1 : at;
}

static size_t numbers(const uint32_t *text, size_t at, size_t end) {
    for (int i = 0; i < 3 && at < end && is_in(text[at], UNICODE_NUMBER); i++) at++;
    return at;
}

/* \s+(?!\S)|\s+ */
static size_t spaces_but_one(const uint32_t *text, size_t at, size_t end) {
    size_t all = spaces(text, at, end);
    for (size_t to = all; to > at; to--)
        if (to == end || is_in(text[to], UNICODE_SPACE)) return to;
    return all;
}

static size_t v3_third(const uint32_t *text, size_t at, size_t end) {
    size_t to = at;
    if (text[at] < 128 && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", (int)text[at]) && text[at]) {
        for (to = at + 1; to < end && text[to] < 128 && is_in(text[to], UNICODE_LETTER);) to++;
        if (to > at + 1) return to;
    }
    for (int taken = 1; taken >= 0; taken--) {
        if (taken &&
            (line_end(text, at, end) > at || is_in(text[at], UNICODE_LETTER | UNICODE_PUNCTUATION | UNICODE_SYMBOL)))
            continue;
        for (to = at + (size_t)taken; to < end && is_in(text[to], UNICODE_LETTER | UNICODE_MARK);) to++;
        if (to > at + (size_t)taken) return to;
    }
    to = blank_and_run(text, at, end, NULL, UNICODE_PUNCTUATION | UNICODE_SYMBOL, false);
    if (to > at) {
        while (line_end(text, to, end) > to) to++;
        return to;
    }
    for (size_t blanks = spaces(text, at, end);; blanks--) {
        for (to = blanks; line_end(text, to, end) > to;) to++;
        if (to > blanks) return to;
        if (blanks == at) break;
    }
    return spaces_but_one(text, at, end);
}

static size_t gpt2_only(const uint32_t *text, size_t at, size_t end) {
    static const char *contractions[] = { "s", "t", "re", "ve", "m", "ll", "d" };
    for (size_t i = 0; i < 7 && text[at] == '\''; i++) {
        size_t length = strlen(contractions[i]), k = 0;
        while (k < length && at + 1 + k < end && text[at + 1 + k] == (uint32_t)contractions[i][k]) k++;
        if (k == length) return at + 1 + length;
    }
    size_t to = blank_and_run(text, at, end, NULL, UNICODE_LETTER, false);
    if (to == at) to = blank_and_run(text, at, end, NULL, UNICODE_NUMBER, false);
    if (to > at) return to;
    for (int taken = text[at] == ' '; taken >= 0; taken--) {
        for (to = at + (size_t)taken; to < end && !is_in(text[to], UNICODE_SPACE | UNICODE_LETTER | UNICODE_NUMBER);)
            to++;
        if (to > at + (size_t)taken) return to;
    }
    return spaces_but_one(text, at, end);
}

static const matcher steps_of[PIPELINE_COUNT][7] = {
    [PIPELINE_GPT2] = { gpt2_only },
    [PIPELINE_V1] = { line_end, v1_letter_run, v1_punctuation_run, trailing_spaces, v1_cjk_run, digit },
    [PIPELINE_CODER_V1] = { line_end, letter_run, punctuation_run, v1_cjk_run, digit },
    [PIPELINE_V3] = { numbers, v3_cjk_run, v3_third },
};

static void split(struct plain *plain, const matcher *steps, size_t begin, size_t end) {
    if (begin == end) return;
    if (!*steps) { plain->ends[plain->count++] = end; return; }
    for (size_t at = begin; at < end;) {
        size_t to = (*steps)(plain->text, at, end);
        if (to == at) { at++; continue; }
        split(plain, steps + 1, begin, at);
        split(plain, steps + 1, at, to);
        begin = at = to;
    }
    split(plain, steps + 1, begin, end);
}

/* One of each kind that some pattern tells apart. */
static const uint32_t corners[] = {
    ' ',    ' ',    ' ',     '\t',    '\n',   '\n',   '\r',    0x0B,    0x00,   0x01,   0x1C,     0x7F,
    0x85,   0xA0,   0x1680,  0x2003,  0x2028, 0x3000, 0x3000,  0x200B,  0x200D, 0xFEFF, 'a',      'Z',
    's',    't',    'r',     'e',     'v',    'l',    'm',     'd',     '\'',   '\'',   '"',      '!',
    '$',    '+',    '-',     '_',     '(',    '/',    ':',     '[',     '`',    '~',    '0',      '9',
    0xB2,   0x661,  0x2160,  0x3007,  0x2460, 0xFF11, 0x1D7D8, 0x11DE5, 0xB5,   0xE9,   0x131,    0x301,
    0x903,  0x410,  0x5D0,   0xE01,   0xE31,  0x10A0, 0x10D0,  0x13A0,  0x1D00, 0x2126, 0x2C00,   0xA640,
    0xAB70, 0xFF21, 0x10400, 0x2018,  0x2019, 0x2020, 0x3001,  0x3002,  0x3003, 0xFF01, 0xFF0F,   0xFF1A,
    0xFF5E, 0xFF5F, 0x30FB,  0x30FC,  0x3040, 0x3041, 0x3099,  0x309B,  0x30A1, 0x4E00, 0x9FA5,   0x9FA6,
    0xAC00, 0xD7A3, 0xE000,  0x20000, 0x7FF,  0x800,  0x20AC,  0x1F44D, 0xFE0F, 0x378,  0x10FFFF,
};
#define CORNERS (sizeof corners / sizeof *corners)

/* Text number n: corners, a few of them, ASCII, or any characters; some repeated. */
static size_t random_text(uint64_t n, char *out, struct plain *plain, size_t *starts) {
    uint64_t counter = 0, kind = random_below(8, n, counter++, 5),
             wanted = 1 + random_below(8, n, counter++, n % 9 ? 40 : 400);
    uint32_t few[4];
    for (int i = 0; i < 4; i++) few[i] = corners[random_below(8, n, counter++, CORNERS)];
    size_t size = 0;
    for (plain->size = 0; plain->size < wanted;) {
        uint64_t reach = random_below(8, n, counter++, 4) ? 0x3200 : CHARACTERS;
        uint32_t c = kind <= 1   ? corners[random_below(8, n, counter++, CORNERS)]
                     : kind == 2 ? few[random_below(8, n, counter++, 4)]
                     : kind == 3 ? (uint32_t)random_below(8, n, counter++, 128)
                                 : (uint32_t)random_below(8, n, counter++, reach);
        if (c >= 0xD800 && c < 0xE000) continue;
        uint64_t times = kind == 1 ? 1 + random_below(8, n, counter++, 3) : 1;
        for (; times > 0 && plain->size < wanted; times--) {
            starts[plain->size] = size;
            plain->text[plain->size++] = c;
            size += utf8_put(c, out + size);
        }
    }
    starts[plain->size] = size;
    return size;
}

/* Ends of the pieces of text[0..size), offset by `base`. */
static size_t ends_of(enum pipeline pipeline, const char *text, size_t size, size_t base, size_t *ends) {
    struct pieces pieces;
    size_t begin, end, count = 0;
    pieces_begin(&pieces, pipeline, text, size);
    while (pieces_next(&pieces, &begin, &end)) ends[count++] = base + end;
    return count;
}

static void random_text_is_cut_as_the_steps_say(void **state) {
    (void)state;
    struct plain plain;
    char text[2048];
    size_t starts[513], ends[2048];
    for (uint64_t n = 0; n < 20000; n++) {
        size_t size = random_text(n, text, &plain, starts);
        for (enum pipeline pipeline = PIPELINE_GPT2; pipeline < PIPELINE_COUNT; pipeline++) {
            plain.count = 0;
            split(&plain, steps_of[pipeline], 0, plain.size);
            size_t count = ends_of(pipeline, text, size, 0, ends);
            for (size_t i = 0; i < plain.count && i < count; i++)
                if (ends[i] != starts[plain.ends[i]])
                    fail_msg("text %llu, %s, piece %zu ends at %zu, expected %zu", (unsigned long long)n,
                             pipeline_name(pipeline), i, ends[i], starts[plain.ends[i]]);
            assert_int_equal(count, plain.count);
        }
    }
}

/* Every character, alone and between neighbours of every kind. */
static void every_character_is_cut_as_the_steps_say(void **state) {
    (void)state;
    /* 0: the character */
    const uint32_t contexts[][4] = {{0, 0, 0, 0},           {'a', 0, 'b', 0},    {' ', 0, ' ', ' '},
                                    {0x4E2D, 0, 0x6587, 0}, {'1', 0, '2', '\n'}, {'!', 0, 0xE9, 0x3000}};
    struct plain plain;
    char text[64];
    size_t ends[64], starts[16];
    for (uint32_t c = 1; c < CHARACTERS; c++) {
        if (c >= 0xD800 && c < 0xE000) continue;
        if (c > 0x323B0 && c < 0xE0000) continue;   /* nothing is assigned between */
        for (size_t context = 0; context < sizeof contexts / sizeof *contexts; context++) {
            size_t size = 0;
            for (plain.size = 0; plain.size < 4; plain.size++) {
                starts[plain.size] = size;
                plain.text[plain.size] = contexts[context][plain.size] ? contexts[context][plain.size] : c;
                size += utf8_put(plain.text[plain.size], text + size);
            }
            starts[4] = size;
            for (enum pipeline pipeline = PIPELINE_GPT2; pipeline < PIPELINE_COUNT; pipeline++) {
                plain.count = 0;
                split(&plain, steps_of[pipeline], 0, plain.size);
                size_t count = ends_of(pipeline, text, size, 0, ends);
                bool same = count == plain.count;
                for (size_t i = 0; same && i < count; i++) same = ends[i] == starts[plain.ends[i]];
                if (!same) fail_msg("U+%04X in context %zu, %s", c, context, pipeline_name(pipeline));
            }
        }
    }
}

/* ---- hostile text ------------------------------------------------------------------------------------------------ */

/* A megabyte of each: work that grows with the square of the length would take minutes. */
static void hostile_runs_are_linear(void **state) {
    (void)state;
    const char *units[] = {
        " ",   "1",      "\n",      "a",        "!",        "'",   "\1",   "\u0301",   "\u3000",       "\u200D",
        "中",  "\u30FB", " \u3000", "\u3000 a", "\n ",      " \n", "\r\n", "\1 ",      "\1  ",         " \u0301",
        "1  ", "a  ",    "! ",      "\u2003 ",  "\1\u3000", "'l",  "½",    " \u3000!", "  \1\u3000 \1"};
    const size_t limit = 1 << 20;
    char *text = malloc(limit);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t length = strlen(units[u]), size = 0;
        for (; size + length <= limit; size += length) memcpy(text + size, units[u], length);
        for (enum pipeline pipeline = PIPELINE_WHOLE; pipeline < PIPELINE_COUNT; pipeline++) {
            struct pieces pieces;
            size_t begin, end, last = 0;
            pieces_begin(&pieces, pipeline, text, size);
            while (pieces_next(&pieces, &begin, &end)) {
                assert_true(begin == last && end > begin);
                last = end;
            }
            assert_int_equal(last, size);
        }
    }
    free(text);
}

/* Ill-formed text has no right pieces, but they cover it and nothing beyond it is read (make asan sees that). */
static void ill_formed_text_is_covered(void **state) {
    (void)state;
    for (uint64_t n = 0; n < 3000; n++) {
        size_t size = 1 + random_below(9, n, 0, 24);
        uint8_t *text = malloc(size);
        for (size_t i = 0; i < size; i++)
            text[i] = (uint8_t)(n & 1 ? random_below(9, n, 1 + i, 256) : 0x80 | random_below(9, n, 1 + i, 128));
        for (enum pipeline pipeline = PIPELINE_WHOLE; pipeline < PIPELINE_COUNT; pipeline++) {
            struct pieces pieces;
            size_t begin, end, last = 0;
            pieces_begin(&pieces, pipeline, text, size);
            while (pieces_next(&pieces, &begin, &end)) {
                assert_true(begin == last && end > begin && end <= size);
                last = end;
            }
            assert_int_equal(last, size);
            for (size_t limit = 0; limit <= size; limit++)
                assert_true(pieces_safe_cut(pipeline, text, size, limit) <= limit);
        }
        free(text);
    }
}

/* ---- safe cuts --------------------------------------------------------------------------------------------------- */

static void safe_cuts_leave_the_pieces_alone(void **state) {
    (void)state;
    struct plain plain;
    char text[2048];
    size_t starts[513], whole[2048], parts[4096], cuts = 0;
    for (uint64_t n = 0; n < 8000; n++) {
        size_t size = random_text(n, text, &plain, starts);
        for (enum pipeline pipeline = PIPELINE_GPT2; pipeline < PIPELINE_COUNT; pipeline++) {
            size_t count = ends_of(pipeline, text, size, 0, whole), last = 0;
            for (size_t limit = 1; limit < size; limit += 1 + size / 16) {
                size_t cut = pieces_safe_cut(pipeline, text, size, limit);
                assert_true(cut <= limit && cut >= last);
                last = cut;
                if (cut == 0) continue;
                size_t first = ends_of(pipeline, text, cut, 0, parts),
                       both = first + ends_of(pipeline, text + cut, size - cut, cut, parts + first);
                if (both != count || memcmp(whole, parts, count * sizeof *whole))
                    fail_msg("text %llu, %s, cut at %zu", (unsigned long long)n, pipeline_name(pipeline), cut);
                cuts++;
            }
        }
    }
    assert_true(cuts > 100000);
}

/* Ordinary text is cut close to where it is wanted, also without blanks or in one long line; the ends and `bytes` are
 * as the header says. */
static void ordinary_text_has_safe_cuts(void **state) {
    (void)state;
    const char *units[] = {"The capital of France is Paris. ",
                           "for (int i = 0; i < n; i++) {\n    a[i] += 1;\n}\n",
                           "你好，世界。",
                           "日本語のテキスト、テスト・テスト。",
                           "Привет мир ",
                           "QUJDREVGR0g5xYz0+/",
                           "0.25,-1e-5,",
                           "x=1;y=2;",
                           "한국어 텍스트 ",
                           "{\"id\":12,\"text\":\"abc\"},",
                           "abc\n\n\n",
                           "I'm 'it's' we've "};
    char text[8192];
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t length = strlen(units[u]), size = 0;
        for (; size + length <= sizeof text; size += length) memcpy(text + size, units[u], length);
        for (enum pipeline pipeline = PIPELINE_GPT2; pipeline < PIPELINE_COUNT; pipeline++)
            for (size_t limit = 100; limit < size; limit += 97) {
                size_t cut = pieces_safe_cut(pipeline, text, size, limit);
                if (cut + 64 < limit)
                    fail_msg("%s, %s: limit %zu, cut %zu", units[u], pipeline_name(pipeline), limit, cut);
            }
    }
    assert_int_equal(pieces_safe_cut(PIPELINE_V3, text, 100, 100), 100);
    assert_int_equal(pieces_safe_cut(PIPELINE_V3, text, 100, 1000), 100);
    assert_int_equal(pieces_safe_cut(PIPELINE_V3, text, 100, 0), 0);
    assert_int_equal(pieces_safe_cut(PIPELINE_V3, text, 0, 0), 0);
    assert_int_equal(pieces_safe_cut(PIPELINE_WHOLE, text, 100, 50), 0);
    assert_int_equal(pieces_safe_cut(PIPELINE_V3, "ab cd", 5, 4), 2);
    assert_int_equal(pieces_safe_cut(PIPELINE_V1, "\n\n \n", 4, 2), 2);   /* a line end is a piece wherever it stands */
    assert_int_equal(pieces_safe_cut(PIPELINE_CODER_V1, "\n\n \n", 4, 3), 3);
    assert_int_equal(pieces_safe_cut(PIPELINE_V3, "a世世世", 10, 9), 1);
}

/* ---- recognition ------------------------------------------------------------------------------------------------- */

static void check_recognised(const char *text, enum pipeline expected) {
    json_t *root;
    enum pipeline found = PIPELINE_COUNT;
    assert_int_equal(json_parse(&root, text, strlen(text), "test", &error), STATUS_OK);
    if (pipeline_recognise(&found, root, &error) != STATUS_OK) fail_msg("%s: %s", text, error.message);
    assert_int_equal(found, expected);
    json_decref(root);
}

static void check_refused_json(const json_t *root, const char *message) {
    enum pipeline found;
    assert_int_equal(pipeline_recognise(&found, root, &error), STATUS_UNSUPPORTED);
    if (!strstr(error.message, message)) fail_msg("found the message \"%s\", expected \"%s\"", error.message, message);
}

static void check_refused(const char *text, const char *message) {
    json_t *root;
    assert_int_equal(json_parse(&root, text, strlen(text), "test", &error), STATUS_OK);
    check_refused_json(root, message);
    json_decref(root);
}

static json_t *step_of(json_t *root, size_t step) {
    return json_array_get(json_object_get(root, "pretokenizers"), step);
}

static void pipelines_come_back_from_json(void **state) {
    (void)state;
    for (enum pipeline pipeline = PIPELINE_WHOLE; pipeline < PIPELINE_COUNT; pipeline++) {
        json_t *root = pipeline_to_json(pipeline);
        enum pipeline found;
        assert_non_null(root);
        assert_int_equal(pipeline_recognise(&found, root, &error), STATUS_OK);
        assert_int_equal(found, pipeline);
        json_decref(root);
    }
    enum pipeline found = PIPELINE_V3;
    assert_int_equal(pipeline_recognise(&found, NULL, &error), STATUS_OK);
    assert_int_equal(found, PIPELINE_WHOLE);
    json_t *null = json_null();
    assert_int_equal(pipeline_recognise(&found, null, &error), STATUS_OK);
    assert_int_equal(found, PIPELINE_WHOLE);
    const char *names[] = { "bytes", "gpt2", "v1", "coder", "v3" };
    for (enum pipeline pipeline = PIPELINE_WHOLE; pipeline < PIPELINE_COUNT; pipeline++)
        assert_string_equal(pipeline_name(pipeline), names[pipeline]);
}

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define SPLIT(pattern)                                                                                                 \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define SEQUENCE(steps) "{\"type\":\"Sequence\",\"pretokenizers\":[" steps "]}"
#define CODER(line_ends)                                                                                               \
    SEQUENCE(SPLIT(line_ends) "," SPLIT("\\\\s?\\\\p{L}+") "," SPLIT("\\\\s?\\\\p{P}+") "," SPLIT(                     \
        "[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+") ",{\"type\":\"Digits\",\"individual_digits\":true}"        \
                                                            "," BYTE_LEVEL)

static void spellings_of_a_pipeline(void **state) {
    (void)state;
    check_recognised(BYTE_LEVEL, PIPELINE_WHOLE);
    check_recognised(SEQUENCE(BYTE_LEVEL), PIPELINE_WHOLE);
    check_recognised("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":true}",
                     PIPELINE_GPT2);
    check_recognised("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true}", PIPELINE_GPT2);
    check_recognised(SEQUENCE("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"), PIPELINE_GPT2);
    check_recognised(CODER("[\\r\\n]"), PIPELINE_CODER_V1);       /* the characters */
    check_recognised(CODER("[\\\\r\\\\n]"), PIPELINE_CODER_V1);   /* their escapes */
    check_recognised(CODER("[\\\\r\\n]"), PIPELINE_CODER_V1);
}

static void other_pipelines_are_refused_with_their_place(void **state) {
    (void)state;
    check_refused("{\"type\":\"Whitespace\"}", "pre_tokenizer.type: found Whitespace, expected ByteLevel or Sequence");
    check_refused("{\"x\":1}", "pre_tokenizer.type: found nothing");
    check_refused("[]", "pre_tokenizer.type: found an array");
    check_refused(SEQUENCE(""), "pre_tokenizer.pretokenizers: found no step");
    check_refused("{\"type\":\"Sequence\"}", "pre_tokenizer.pretokenizers: found nothing");
    check_refused("{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":false}",
                  "pre_tokenizer.add_prefix_space: found true, expected false");
    check_refused("{\"type\":\"ByteLevel\",\"use_regex\":false}",
                  "pre_tokenizer.add_prefix_space: found nothing, expected false");
    check_refused("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":1}",
                  "pre_tokenizer.use_regex: found a number");
    check_refused(CODER("[\\\\r\\\\n]+"),
                  "pre_tokenizer.pretokenizers[0].pattern.Regex: found \"+\" at character 7, expected its end");
    check_refused(CODER("[\\\\\\r\\n]"),
                  "pre_tokenizer.pretokenizers[0].pattern.Regex: found \"\\\\r\\n]\" at character 2");
    check_refused(SEQUENCE(BYTE_LEVEL "," BYTE_LEVEL),
                  "pre_tokenizer.pretokenizers[0].type: found ByteLevel, expected Split");
    check_refused(
        SEQUENCE("{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Isolated\",\"invert\":false}"),
        "pretokenizers[0].pattern: found String, expected a Regex");

    /* One change in each pipeline, in each step. */
    for (enum pipeline pipeline = PIPELINE_V1; pipeline < PIPELINE_COUNT; pipeline++) {
        json_t *root = pipeline_to_json(pipeline);
        size_t count = json_array_size(json_object_get(root, "pretokenizers"));
        for (size_t step = 0; step < count; step++) {
            char place[64];
            snprintf(place, sizeof place, "pre_tokenizer.pretokenizers[%zu]", step);
            json_t *changed = json_deep_copy(root), *at = step_of(changed, step);
            json_t *pattern = json_object_get(at, "pattern");
            if (pattern) {
                char text[4096];
                snprintf(text, sizeof text, "%s?", json_string_value(json_object_get(pattern, "Regex")));
                json_object_set_new(pattern, "Regex", json_string(text));
            } else {
                json_object_set_new(at, json_object_get(at, "use_regex") ? "use_regex" : "individual_digits",
                                    json_integer(3));
            }
            check_refused_json(changed, place);
            json_decref(changed);

            changed = json_deep_copy(root);
            at = step_of(changed, step);
            if (json_object_get(at, "behavior")) {
                json_object_set_new(at, "behavior", json_string("Removed"));
                check_refused_json(changed, "].behavior: found Removed, expected Isolated");
                json_object_set_new(at, "behavior", json_string("Isolated"));
                json_object_set_new(at, "invert", json_true());
                check_refused_json(changed, "].invert: found true, expected false");
            }
            json_decref(changed);

            changed = json_deep_copy(root);
            json_array_remove(json_object_get(changed, "pretokenizers"), step);
            check_refused_json(changed, "pre_tokenizer.pretokenizers");
            json_decref(changed);
        }
        json_array_append_new(json_object_get(root, "pretokenizers"), json_deep_copy(step_of(root, count - 1)));
        char message[64];
        snprintf(message, sizeof message, "found %zu steps, expected %zu", count + 1, count);
        check_refused_json(root, message);
        json_decref(root);
    }

    /* The place of a change inside a pattern, in characters. */
    json_t *root = pipeline_to_json(PIPELINE_V3);
    json_object_set_new(json_object_get(step_of(root, 1), "pattern"), "Regex",
                        json_string("[\u4E00-\u9FA6\u3040-\u309F\u30A0-\u30FF]+"));
    check_refused_json(root,
                       "pre_tokenizer.pretokenizers[1].pattern.Regex: found \"\u9FA6\u3040-\u309F\u30A0-\u30FF]+\" at "
                       "character 4, expected \"\u9FA5\u3040-\u309F\u30A0-\u30FF]+\" (pipeline v3");
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_of_v3),
        cmocka_unit_test(pieces_of_v1),
        cmocka_unit_test(pieces_of_coder),
        cmocka_unit_test(pieces_of_gpt2),
        cmocka_unit_test(the_whole_is_one_piece),
        cmocka_unit_test(tables_hold_the_classes),
        cmocka_unit_test(random_text_is_cut_as_the_steps_say),
        cmocka_unit_test(every_character_is_cut_as_the_steps_say),
        cmocka_unit_test(hostile_runs_are_linear),
        cmocka_unit_test(ill_formed_text_is_covered),
        cmocka_unit_test(safe_cuts_leave_the_pieces_alone),
        cmocka_unit_test(ordinary_text_has_safe_cuts),
        cmocka_unit_test(pipelines_come_back_from_json),
        cmocka_unit_test(spellings_of_a_pipeline),
        cmocka_unit_test(other_pipelines_are_refused_with_their_place),
    };
    return cmocka_run_group_tests(tests, read_classes, NULL);
}
