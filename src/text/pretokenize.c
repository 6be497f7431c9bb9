/* Pre-tokenizers (spec/formats.md sections 2.3 to 2.5). Each is a scanner written by hand that says where the piece
 * beginning at a given place ends.
 *
 * In every pipeline that end depends on what follows the beginning alone, never on what lies before it, so a scanner
 * keeps no state:
 * - V3: the pieces of steps 1 and 2 are runs of one kind (numbers by threes, CJK, the rest), and a character of another
 * kind is the end of the text for step 3.
 * - V1 and Coder: whether two neighbours are parted follows from them, the two characters behind them, and how far the
 * run of blanks behind them reaches.
 * - GPT-2: one pattern, tried at the place.
 * Text in ASCII goes through a short path in front of each scanner; where a non-ASCII character could matter that path
 * leaves the piece to the general one. */
#include "text/pretokenize.h"

#include <string.h>

#include "text/unicode.h"

#define OUTSIDE (1u << 16)   /* the class of what is beyond the end: none of the others */
#define IS_WORD (UNICODE_LETTER | UNICODE_MARK)
#define IS_SIGN (UNICODE_PUNCTUATION | UNICODE_SYMBOL)
#define CUT_WINDOW 16384     /* bytes in which pieces_safe_cut looks for a place */

/* ---- characters -------------------------------------------------------------------------------------------------- */

/* The classes of the character at `at`; *length its bytes. The text is well-formed; in text that is not, nothing beyond
 * its end is read. */
static inline unsigned class_at(const uint8_t *text, size_t size, size_t at, size_t *length) {
    if (at >= size) { *length = 0; return OUTSIDE; }
    uint8_t first = text[at];
    if (first < 0x80) { *length = 1; return unicode_classes[0][first]; }
    size_t wanted = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (size - at < wanted) { *length = size - at; return 0; }
    *length = wanted;
    uint32_t character = first & (0x7Fu >> wanted);
    for (size_t i = 1; i < wanted; i++) character = character << 6 | (text[at + i] & 0x3Fu);
    return character < 0x110000 ? unicode_class(character) : 0;
}

static inline bool is_ascii_letter(uint8_t byte) { return (uint8_t)((byte | 0x20) - 'a') < 26; }

/* Where the ASCII letters behind the character at `at`, which is in ASCII and may be a letter itself, end; eight bytes
 * at a time. That the first byte is not looked at keeps it out of the chain of instructions from one piece to the next,
 * whose length is what limits the speed. */
static inline size_t ascii_letters_end(const uint8_t *text, size_t size, size_t at) {
    const uint64_t ones = 0x0101010101010101u;
    uint64_t skipped = ~(uint64_t)0x80;
    for (; size - at >= 8; at += 8, skipped = ~(uint64_t)0) {
        uint64_t word;
        memcpy(&word, text + at, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        /* The high bit of each byte: lower case at least 'a', and not above 'z', and ASCII. */
        uint64_t low = (word | 0x20 * ones) & 0x7F * ones;
        uint64_t letters = (low + (0x80 - 'a') * ones) & ~(low + (0x7F - 'z') * ones) & ~word;
        uint64_t others = ~letters & 0x80 * ones & skipped;
        if (others) return at + (size_t)__builtin_ctzll(others) / 8;
    }
    at += (skipped & 0x80) == 0 && at < size;
    while (at < size && is_ascii_letter(text[at])) at++;
    return at;
}

/* Does nothing but ASCII stand at `at`? */
static inline bool ascii_or_end(const uint8_t *text, size_t size, size_t at) { return at >= size || text[at] < 0x80; }

/* Where the run of ASCII characters with one of `wanted` and none of `unwanted` ends. */
static inline size_t ascii_run_end(const uint8_t *text, size_t size, size_t at, unsigned wanted, unsigned unwanted) {
    while (at < size && text[at] < 0x80 && (unicode_classes[0][text[at]] & wanted) &&
           !(unicode_classes[0][text[at]] & unwanted))
        at++;
    return at;
}

/* ---- V3 and V4 --------------------------------------------------------------------------------------------------- */

/* Step 1 leaves runs of \p{N}, step 2 runs of CJK, and the rest; no character is both. */
#define V3_KIND (UNICODE_NUMBER | UNICODE_V3_CJK)

/* The classes of the character at `at` as step 3 sees it inside a piece of this kind: another kind is the end of the
 * text. */
static inline unsigned v3_class(const uint8_t *text, size_t size, size_t at, unsigned kind, size_t *length) {
    unsigned c = class_at(text, size, at, length);
    return (c & V3_KIND) == kind ? c : OUTSIDE;
}

/* Step 3:  [!-/:-@\[-`{-~][A-Za-z]+ | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+ | ?[\p{P}\p{S}]+[\r\n]* | \s*[\r\n]+ |
 * \s+(?!\S) | \s+ */
static size_t v3_general_end(const uint8_t *text, size_t size, size_t at) {
    size_t length, next_length;
    unsigned c = class_at(text, size, at, &length), kind = c & V3_KIND;
    size_t next = at + length;
    if (kind == UNICODE_NUMBER) {
        for (int count = 1; count < 3 && class_at(text, size, next, &length) & UNICODE_NUMBER; count++) next += length;
        return next;
    }
    unsigned follower = v3_class(text, size, next, kind, &next_length);

    /* 1: in ASCII every punctuation mark and symbol is in the class. */
    if (text[at] < 0x80 && (c & IS_SIGN) && next < size && is_ascii_letter(text[next]))
        return ascii_letters_end(text, size, at);

    /* 2: a mark may be the character in front or the first of the run, which comes to the same. */
    if ((c & IS_WORD) || ((follower & IS_WORD) && !(c & (IS_SIGN | UNICODE_LINE_END)))) {
        while (v3_class(text, size, next, kind, &length) & IS_WORD) next += length;
        return next;
    }

    /* 3 */
    if ((c & IS_SIGN) || (text[at] == ' ' && (follower & IS_SIGN))) {
        while (v3_class(text, size, next, kind, &length) & IS_SIGN) next += length;
        while (v3_class(text, size, next, kind, &length) & UNICODE_LINE_END) next += length;
        return next;
    }

    /* 4 to 6: the run of white space up to its last line end; all of it in front of the end; else all but its last
     * character, which is left to the next word. */
    if (c & UNICODE_SPACE) {
        size_t line_end = c & UNICODE_LINE_END ? next : 0, last = at;
        while ((c = v3_class(text, size, next, kind, &length)) & UNICODE_SPACE) {
            last = next;
            next += length;
            if (c & UNICODE_LINE_END) line_end = next;
        }
        return line_end ? line_end : c & OUTSIDE || last == at ? next : last;
    }

    /* No alternative begins here: a stretch up to the next character with which one does. */
    while (!((c = follower) & (IS_WORD | IS_SIGN | UNICODE_SPACE | OUTSIDE))) {
        follower = v3_class(text, size, next + next_length, kind, &length);
        if (follower & IS_WORD) break;
        next += next_length;
        next_length = length;
    }
    return next;
}

static inline size_t v3_end(const uint8_t *text, size_t size, size_t at) {
    if (text[at] >= 0x80) return v3_general_end(text, size, at);
    unsigned c = unicode_classes[0][text[at]];
    size_t begin, end;
    if (!(c & (UNICODE_NUMBER | UNICODE_LINE_END))) {
        /* Letters, behind one character that is none or not: alternatives 1 and 2. */
        end = ascii_letters_end(text, size, at);
        if (end > at + !(c & UNICODE_LETTER))
            return ascii_or_end(text, size, end) || (c & IS_SIGN) ? end : v3_general_end(text, size, at);
    }
    if (c & UNICODE_NUMBER) {
        end = at + 1;
        for (int count = 1; count < 3 && end < size && text[end] >= '0' && text[end] <= '9'; count++) end++;
        return end - at == 3 || ascii_or_end(text, size, end) ? end : v3_general_end(text, size, at);
    }
    if (c & (IS_SIGN | UNICODE_SPACE)) {
        begin = at + (text[at] == ' ');
        end = ascii_run_end(text, size, begin, IS_SIGN, 0);
        if (!ascii_or_end(text, size, end)) return v3_general_end(text, size, at);
        if (end > begin) return ascii_run_end(text, size, end, UNICODE_LINE_END, 0);
        size_t line_end = 0;
        for (end = at; end < size && text[end] < 0x80 && ((c = unicode_classes[0][text[end]]) & UNICODE_SPACE); end++)
            if (c & UNICODE_LINE_END) line_end = end + 1;
        if (!ascii_or_end(text, size, end)) return v3_general_end(text, size, at);
        return line_end ? line_end : end == size || (c & UNICODE_NUMBER) || end == at + 1 ? end : end - 1;
    }
    return v3_general_end(text, size, at);
}

/* Between a and b, whatever stands before and behind. */
static bool v3_sure_cut(unsigned a, unsigned b, uint8_t a_byte, uint8_t b_byte) {
    if ((a & V3_KIND) != (b & V3_KIND)) return true;
    if (a & UNICODE_NUMBER) return false;
    if (a & IS_WORD) return !(b & IS_WORD);
    if (a & IS_SIGN) return !(b & (IS_SIGN | UNICODE_LINE_END)) && !(a_byte < 0x80 && is_ascii_letter(b_byte));
    if (a & UNICODE_SPACE) return (a & UNICODE_LINE_END) && !(b & UNICODE_SPACE);
    return b & (IS_SIGN | UNICODE_SPACE);   /* a stretch without a match ends where one begins */
}

/* ---- V1, V2 and Coder V1 ----------------------------------------------------------------------------------------- */

/* The sets of steps 2 and 3, and whether there is a step `\s+$`. */
struct steps { unsigned letters, punctuation; bool trailing; };
static const struct steps v1_steps = { UNICODE_V1_LETTER, UNICODE_V1_PUNCTUATION, true };
static const struct steps coder_steps = { UNICODE_LETTER, UNICODE_PUNCTUATION, false };

/* Do steps 1 to 3 part the neighbours a and b, where b is at `at`? Step 1 parts line ends from everything; steps 2 and
 * 3 find the longest runs of their set together with one blank in front of them. Letters and punctuation of V1 overlap,
 * and U+3000 is punctuation and a blank. */
static inline bool v1_parted(struct steps steps, const uint8_t *text, size_t size, size_t at, unsigned a, unsigned b) {
    if ((a | b) & UNICODE_LINE_END) return true;
    size_t length = 0, next = at;
    unsigned c = 0;
    if (b & UNICODE_SPACE) {
        class_at(text, size, at, &length);
        next += length;
        c = class_at(text, size, next, &length);
    }
    /* step 2 */
    if (a & steps.letters) {
        if (!(b & steps.letters)) return true;
    } else if (b & steps.letters) {
        if (!(a & UNICODE_SPACE)) return true;
    } else if (c & steps.letters) {
        return true;
    }
    /* step 3, inside a piece of step 2 */
    if (a & steps.punctuation) return !(b & steps.punctuation);
    if (b & steps.punctuation) return !(a & UNICODE_SPACE);
    /* b is a blank in front of punctuation, unless that is a blank itself and belongs to letters behind it. */
    return (c & steps.punctuation) &&
           !((c & UNICODE_SPACE) && class_at(text, size, next + length, &length) & steps.letters);
}

/* Does the run of blanks from `at` on reach the end of the piece that steps 1 to 3 left? */
static bool v1_trailing(struct steps steps, const uint8_t *text, size_t size, size_t at) {
    size_t length;
    for (unsigned a = class_at(text, size, at, &length), b;; a = b) {
        at += length;
        b = class_at(text, size, at, &length);
        if (b & OUTSIDE || v1_parted(steps, text, size, at, a, b)) return true;
        if (!(b & UNICODE_SPACE)) return false;
    }
}

/* steps 5 and 6 */
static inline bool v1_parted_by_character(unsigned a, unsigned b) {
    return ((a ^ b) & UNICODE_V1_CJK) || ((a | b) & UNICODE_DIGIT);
}

static size_t v1_general_end(struct steps steps, const uint8_t *text, size_t size, size_t at) {
    size_t length;
    for (unsigned a = class_at(text, size, at, &length), b;; a = b) {
        at += length;
        b = class_at(text, size, at, &length);
        if (b & OUTSIDE || v1_parted_by_character(a, b) || v1_parted(steps, text, size, at, a, b)) return at;
        if (steps.trailing && !(a & UNICODE_SPACE) && (b & UNICODE_SPACE) && v1_trailing(steps, text, size, at))
            return at;
    }
}

static inline size_t v1_end(struct steps steps, const uint8_t *text, size_t size, size_t at) {
    if (text[at] >= 0x80) return v1_general_end(steps, text, size, at);
    unsigned c = unicode_classes[0][text[at]];
    if (c & (UNICODE_LINE_END | UNICODE_DIGIT)) return at + 1;
    size_t begin = at + !!(c & UNICODE_SPACE), end;
    if (c & (UNICODE_LETTER | UNICODE_SPACE)) {
        end = ascii_letters_end(text, size, at);
        if (end > begin) return ascii_or_end(text, size, end) ? end : v1_general_end(steps, text, size, at);
    }
    end = ascii_run_end(text, size, begin, steps.punctuation, steps.letters);
    if (end > begin) return ascii_or_end(text, size, end) ? end : v1_general_end(steps, text, size, at);
    end = ascii_run_end(text, size, at, UNICODE_SPACE, UNICODE_LINE_END);
    if (end > at) {
        if (end == size) return end;
        c = text[end] < 0x80 ? unicode_classes[0][text[end]] : 0;
        if (c & (UNICODE_LINE_END | UNICODE_DIGIT)) return end;
        /* two blanks at least: one would have gone with what follows */
        if (c & (steps.letters | steps.punctuation)) return end - 1;
    }
    return v1_general_end(steps, text, size, at);
}

/* Behind a character that is no blank, what step 4 and the blanks of steps 2 and 3 look ahead for lies on the same
 * side. */
static bool v1_sure_cut(struct steps steps, const uint8_t *text, size_t size, size_t at, unsigned a, unsigned b) {
    if ((a | b) & UNICODE_LINE_END) return true;
    return !(a & UNICODE_SPACE) && (v1_parted_by_character(a, b) || v1_parted(steps, text, size, at, a, b));
}

/* ---- GPT-2 ------------------------------------------------------------------------------------------------------- */

/* The three classes of runs; 0 is white space and the end. */
static inline unsigned gpt2_kind(unsigned c) {
    return c & (UNICODE_SPACE | OUTSIDE) ? 0
           : c & UNICODE_LETTER          ? UNICODE_LETTER
           : c & UNICODE_NUMBER          ? UNICODE_NUMBER
                                         : UNICODE_SYMBOL;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t gpt2_general_end(const uint8_t *text, size_t size, size_t at) {
    size_t length, last = at;
    if (text[at] == '\'' && at + 1 < size) {
        uint8_t first = text[at + 1], second = at + 2 < size ? text[at + 2] : 0;
        if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
        if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
            return at + 3;
    }
    unsigned c = class_at(text, size, at, &length), kind = gpt2_kind(c);
    size_t next = at + length;
    if (text[at] == ' ') kind = gpt2_kind(class_at(text, size, next, &length));
    if (kind) {
        while (gpt2_kind(class_at(text, size, next, &length)) == kind) next += length;
        return next;
    }
    while ((c = class_at(text, size, next, &length)) & UNICODE_SPACE) {
        last = next;
        next += length;
    }
    return c & OUTSIDE || last == at ? next : last;
}

static inline size_t gpt2_end(const uint8_t *text, size_t size, size_t at) {
    if (text[at] == ' ' || is_ascii_letter(text[at])) {
        size_t end = ascii_letters_end(text, size, at);
        if (end > at + (text[at] == ' ') && ascii_or_end(text, size, end)) return end;
    }
    return gpt2_general_end(text, size, at);
}

static bool gpt2_sure_cut(unsigned a, unsigned b, uint8_t a_byte, uint8_t b_byte) {
    unsigned kind = gpt2_kind(a);
    if (kind == 0 || kind == gpt2_kind(b)) return false;
    return !(a_byte == '\'' && b_byte && strchr("stmdrvl", b_byte));
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

void pieces_begin(struct pieces *pieces, enum pipeline pipeline, const void *text, size_t size) {
    *pieces = (struct pieces){ .pipeline = pipeline, .text = text, .size = size };
}

bool pieces_next(struct pieces *pieces, size_t *begin, size_t *end) {
    const uint8_t *text = pieces->text;
    size_t size = pieces->size, at = pieces->at;
    if (at >= size) return false;
    *begin = at;
    switch (pieces->pipeline) {
    case PIPELINE_GPT2: at = gpt2_end(text, size, at); break;
    case PIPELINE_V1: at = v1_end(v1_steps, text, size, at); break;
    case PIPELINE_CODER_V1: at = v1_end(coder_steps, text, size, at); break;
    case PIPELINE_V3: at = v3_end(text, size, at); break;
    default: at = size;
    }
    *end = pieces->at = at;
    return true;
}

/* The beginning of the character that holds the byte before `at`. */
static size_t character_before(const uint8_t *text, size_t at) {
    for (at--; at > 0 && (text[at] & 0xC0) == 0x80;) at--;
    return at;
}

size_t pieces_safe_cut(enum pipeline pipeline, const void *data, size_t size, size_t limit) {
    const uint8_t *text = data;
    if (pipeline == PIPELINE_WHOLE || limit == 0) return 0;
    if (limit >= size) return size;
    size_t length, at = (text[limit] & 0xC0) == 0x80 ? character_before(text, limit) : limit;
    size_t lowest = limit > CUT_WINDOW ? limit - CUT_WINDOW : 1;
    for (unsigned b = class_at(text, size, at, &length), a; at >= lowest && at > 0; b = a) {
        size_t before = character_before(text, at);
        a = class_at(text, size, before, &length);
        bool sure = false;
        switch (pipeline) {
        case PIPELINE_GPT2: sure = gpt2_sure_cut(a, b, text[before], text[at]); break;
        case PIPELINE_V1: sure = v1_sure_cut(v1_steps, text, size, at, a, b); break;
        case PIPELINE_CODER_V1: sure = v1_sure_cut(coder_steps, text, size, at, a, b); break;
        case PIPELINE_V3: sure = v3_sure_cut(a, b, text[before], text[at]); break;
        default: break;
        }
        if (sure) return at;
        at = before;
    }
    return 0;
}

/* ---- tokenizer.json ---------------------------------------------------------------------------------------------- */

#define V1_LETTERS                                                                                                     \
    "A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF\u0370-"                \
    "\u0373\u0376\u0377\u037B-\u037D\u037F\u0386"                                                                      \
    "\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-"         \
    "\u13F5\u13F8-\u13FD\u1C90-\u1CBA"                                                                                 \
    "\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-"  \
    "\u1F57\u1F59\u1F5B\u1F5D"                                                                                         \
    "\u1F5F-\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-"         \
    "\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC"                                                                                 \
    "\u2102\u2107\u210A-\u2113\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-"            \
    "\u213F\u2145-\u2149\u214E\u2183\u2184"                                                                            \
    "\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-"   \
    "\uA78E\uAB70-\uABBF"                                                                                              \
    "\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-"        \
    "\U000104FB"                                                                                                       \
    "\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-\U0001E943"
#define V1_CJK_RUN "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+"
#define DIGITS_STEP ""

/* The steps before ByteLevel: the pattern of a Split, or DIGITS_STEP. */
static const struct { const char *name, *steps[6]; int count;
} pipelines[PIPELINE_COUNT] = {
    [PIPELINE_WHOLE] = {"bytes", {NULL}, 0},
    [PIPELINE_GPT2] = {"gpt2", {NULL}, 0},
    [PIPELINE_V1] = {"v1",
                     {"[\r\n]", "\\s?[" V1_LETTERS "]+",
                      "\\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+", "\\s+$", V1_CJK_RUN,
                      DIGITS_STEP},
                     6},
    [PIPELINE_CODER_V1] = {"coder", {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", V1_CJK_RUN, DIGITS_STEP}, 5},
    [PIPELINE_V3] =
        {"v3",
         {"\\p{N}{1,3}", "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
          "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
          "?[\\p{P}\\p{S}]+[\r\n]*"
          "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"},
         3},
};

const char *pipeline_name(enum pipeline pipeline) {
    return (unsigned)pipeline < PIPELINE_COUNT ? pipelines[pipeline].name : "unknown";
}

static json_t *byte_level_to_json(bool use_regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex",
                     (int)use_regex);
}

json_t *pipeline_to_json(enum pipeline pipeline) {
    if (pipelines[pipeline].count == 0) return byte_level_to_json(pipeline == PIPELINE_GPT2);
    json_t *steps = json_array();
    for (int i = 0; i < pipelines[pipeline].count; i++) {
        const char *pattern = pipelines[pipeline].steps[i];
        json_array_append_new(steps, *pattern ? json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern",
                                                          "Regex", pattern, "behavior", "Isolated", "invert", 0)
                                              : json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1));
    }
    json_array_append_new(steps, byte_level_to_json(false));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
}

/* Where two patterns begin to differ once \r and \n stand for the characters they mean: SIZE_MAX if nowhere, else bytes
 * into each. */
static size_t pattern_difference(const char *found, size_t found_size, const char *expected, size_t expected_size,
                                 size_t *expected_at) {
    size_t i = 0, k = 0;
    while (i < found_size || k < expected_size) {
        size_t was = i, expected_was = k;
        int unit[2] = { -1, -1 }, after[2] = { -1, -1 };   /* a character, and what a backslash escapes */
        if (i < found_size) unit[0] = found[i++];
        if (k < expected_size) unit[1] = expected[k++];
        if (unit[0] == '\\' && i < found_size) after[0] = found[i++];
        if (unit[1] == '\\' && k < expected_size) after[1] = expected[k++];
        for (int side = 0; side < 2; side++) {
            if (after[side] != 'r' && after[side] != 'n') continue;
            unit[side] = after[side] == 'r' ? '\r' : '\n';
            after[side] = -1;
        }
        if (unit[0] != unit[1] || after[0] != after[1]) { *expected_at = expected_was; return was; }
    }
    return SIZE_MAX;
}

/* A few characters of a pattern from a byte on, printable, from the beginning of a character. */
static const char *excerpt(char out[64], const char *text, size_t size, size_t at) {
    while (at > 0 && at < size && ((uint8_t)text[at] & 0xC0) == 0x80) at--;
    if (at >= size) return strcpy(out, "its end");
    size_t length = 0;
    out[length++] = '"';
    for (int characters = 0; at < size && characters < 12; characters++) {
        uint8_t byte = (uint8_t)text[at++];
        if (byte < 0x20 || byte == 0x7F) {
            out[length++] = '\\';
            out[length++] = byte == '\r' ? 'r' : byte == '\n' ? 'n' : '?';
            continue;
        }
        out[length++] = (char)byte;
        while (at < size && ((uint8_t)text[at] & 0xC0) == 0x80 && length < 60) out[length++] = text[at++];
    }
    out[length++] = '"';
    out[length] = '\0';
    return out;
}

/* A string, or "nothing" and the like, for messages. */
static const char *value_name(const json_t *value) {
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_STRING: return json_string_value(value);
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_NULL: return value ? "null" : "nothing";
    default: return "a number";
    }
}

static bool is_string(const json_t *value, const char *text) {
    return json_is_string(value) && !strcmp(json_string_value(value), text);
}

static enum status expect(const json_t *object, const char *key, const char *wanted, const char *where,
                          struct error *error) {
    const json_t *value = json_object_get(object, key);
    bool same = !strcmp(wanted, "true") || !strcmp(wanted, "false")
                    ? json_is_boolean(value) && !strcmp(value_name(value), wanted)
                    : is_string(value, wanted);
    if (same) return STATUS_OK;
    return error_set(error, STATUS_UNSUPPORTED, "%s.%s: found %.100s, expected %s", where, key, value_name(value),
                     wanted);
}

static enum status match_byte_level(const json_t *step, const char *where, bool *use_regex, struct error *error) {
    enum status status = expect(step, "type", "ByteLevel", where, error);
    if (status == STATUS_OK) status = expect(step, "add_prefix_space", "false", where, error);
    const json_t *regex = json_object_get(step, "use_regex");
    *use_regex = !regex || json_is_true(regex);   /* the older files, without the key, use it */
    if (status == STATUS_OK && regex && !json_is_boolean(regex))
        status = error_set(error, STATUS_UNSUPPORTED, "%s.use_regex: found %.100s, expected true or false", where,
                           value_name(regex));
    return status;
}

static enum status match_split(const json_t *step, const char *expected, const char *where, struct error *error) {
    enum status status = expect(step, "type", "Split", where, error);
    if (status != STATUS_OK) return status;
    const json_t *pattern = json_object_get(step, "pattern"), *regex = json_object_get(pattern, "Regex");
    if (!json_is_string(regex) || json_object_size(pattern) != 1) {
        const char *key = json_is_object(pattern) && json_object_size(pattern)
                              ? json_object_iter_key(json_object_iter((json_t *)(uintptr_t)pattern))
                              : NULL;
        return error_set(error, STATUS_UNSUPPORTED, "%s.pattern: found %.100s, expected a Regex", where,
                         key ? key : value_name(pattern));
    }
    char found_text[64], expected_text[64];
    const char *found = json_string_value(regex);
    size_t size = json_string_length(regex), expected_at = 0,
           at = pattern_difference(found, size, expected, strlen(expected), &expected_at), character = 1;
    if (at != SIZE_MAX) {
        for (size_t i = 0; i < at; i++) character += ((uint8_t)found[i] & 0xC0) != 0x80;
        if (at < size && ((uint8_t)found[at] & 0xC0) == 0x80) character--;
        return error_set(error, STATUS_UNSUPPORTED, "%s.pattern.Regex: found %s at character %zu, expected %s", where,
                         excerpt(found_text, found, size, at), character,
                         excerpt(expected_text, expected, strlen(expected), expected_at));
    }
    status = expect(step, "behavior", "Isolated", where, error);
    return status == STATUS_OK ? expect(step, "invert", "false", where, error) : status;
}

/* Step number i, 0 to the pipeline's count: the last is ByteLevel. */
static enum status match_step(const json_t *step, enum pipeline pipeline, int i, struct error *error) {
    char where[64];
    bool use_regex;
    snprintf(where, sizeof where, "pre_tokenizer.pretokenizers[%d]", i);
    const char *pattern = i < pipelines[pipeline].count ? pipelines[pipeline].steps[i] : NULL;
    if (pattern && *pattern) return match_split(step, pattern, where, error);
    enum status status = pattern ? expect(step, "type", "Digits", where, error)
                                 : match_byte_level(step, where, &use_regex, error);
    return status == STATUS_OK
               ? expect(step, pattern ? "individual_digits" : "use_regex", pattern ? "true" : "false", where, error)
               : status;
}

/* Compares the steps with those of a pipeline; the error is about the first that differs, *agreeing how many do not. */
static enum status match_steps(const json_t *steps, enum pipeline pipeline, int *agreeing, struct error *error) {
    int expected = pipelines[pipeline].count + 1, found = (int)json_array_size(steps);
    enum status status = STATUS_OK;
    *agreeing = 0;
    for (int i = 0; i < expected && i < found; i++) {
        enum status of_step = match_step(json_array_get(steps, (size_t)i), pipeline, i,
                                         status == STATUS_OK ? error : NULL);
        *agreeing += of_step == STATUS_OK;
        if (status == STATUS_OK) status = of_step;
    }
    if (status != STATUS_OK || found == expected) return status;
    return error_set(error, STATUS_UNSUPPORTED, "pre_tokenizer.pretokenizers: found %d steps, expected %d", found,
                     expected);
}

enum status pipeline_recognise(enum pipeline *pipeline, const json_t *pre_tokenizer, struct error *error) {
    *pipeline = PIPELINE_WHOLE;
    if (!pre_tokenizer || json_is_null(pre_tokenizer)) return STATUS_OK;
    const json_t *type = json_object_get(pre_tokenizer, "type"),
                 *steps = json_object_get(pre_tokenizer, "pretokenizers");
    bool use_regex, is_sequence = is_string(type, "Sequence");
    if (!is_sequence && !is_string(type, "ByteLevel"))
        return error_set(error, STATUS_UNSUPPORTED, "pre_tokenizer.type: found %.100s, expected ByteLevel or Sequence",
                         value_name(json_is_object(pre_tokenizer) ? type : pre_tokenizer));
    if (is_sequence && (!json_is_array(steps) || json_array_size(steps) == 0))
        return error_set(error, STATUS_UNSUPPORTED, "pre_tokenizer.pretokenizers: found %s, expected a list of steps",
                         json_is_array(steps) ? "no step" : value_name(steps));
    if (!is_sequence ||
        (json_array_size(steps) == 1 && is_string(json_object_get(json_array_get(steps, 0), "type"), "ByteLevel"))) {
        enum status status = match_byte_level(is_sequence ? json_array_get(steps, 0) : pre_tokenizer,
                                              is_sequence ? "pre_tokenizer.pretokenizers[0]" : "pre_tokenizer",
                                              &use_regex, error);
        if (status == STATUS_OK && use_regex) *pipeline = PIPELINE_GPT2;
        return status;
    }
    /* The one that agrees, or what parts the file from the one that agrees most. */
    struct error reason = {0}, closest = {0};
    enum pipeline best = PIPELINE_COUNT;
    int most = -1;
    for (enum pipeline candidate = PIPELINE_COUNT; candidate-- > 0;) {
        int agreeing;
        if (pipelines[candidate].count == 0) continue;
        if (match_steps(steps, candidate, &agreeing, &reason) == STATUS_OK) { *pipeline = candidate; return STATUS_OK; }
        if (agreeing <= most) continue;
        most = agreeing;
        best = candidate;
        closest = reason;
    }
    return error_set(error, STATUS_UNSUPPORTED, "%.900s (pipeline %s, the closest of those this program has)",
                     closest.message, pipelines[best].name);
}
