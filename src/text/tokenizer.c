/* The `bytes` and `characters` tokenizers and their tokenizer.json (spec/formats.md section 2). */
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/json.h"

#define END_OF_DOCUMENT "<|endoftext|>"
#define UNKNOWN_NAME "<unk>"
#define ANY_CHARACTER "[\\s\\S]"
#define VOCABULARY_LIMIT (1 << 24)   /* ids of a file: far above any real vocabulary, so that a wrong id cannot ask for gigabytes */

struct piece { char *text; uint32_t length; bool present, special, added; };

struct tokenizer {
    enum tokenizer_kind kind;
    int64_t size;
    struct piece *pieces;             /* [size] */
    int32_t eos, unknown;             /* -1: none */
    int32_t byte_ids[256];            /* bytes */
    int32_t *character_ids;           /* characters: [CHARACTER_LIMIT], -1 where there is none */
    int32_t *added;                   /* ids of the added tokens, longest text first */
    int added_count;
    uint8_t added_first[256];         /* can an added token begin with this byte? */
};

/* ---- lists and counts ------------------------------------------------------------------------------------------------------- */

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

static enum status token_list_reserve(struct token_list *list, int64_t count, struct error *error) {
    if (count <= list->capacity) return STATUS_OK;
    int64_t capacity = list->capacity + list->capacity / 2 + 64;
    if (capacity < count) capacity = count;
    int32_t *ids = realloc(list->ids, (size_t)capacity * sizeof *ids);
    if (!ids) return error_set(error, STATUS_NO_MEMORY, "no memory left for %lld tokens", (long long)capacity);
    list->ids = ids;
    list->capacity = capacity;
    return STATUS_OK;
}

enum status token_list_push(struct token_list *list, int32_t id, struct error *error) {
    enum status status = token_list_reserve(list, list->count + 1, error);
    if (status == STATUS_OK) list->ids[list->count++] = id;
    return status;
}

enum status token_list_append(struct token_list *list, const int32_t *ids, int64_t count, struct error *error) {
    enum status status = token_list_reserve(list, list->count + count, error);
    if (status == STATUS_OK && count > 0) {
        memcpy(list->ids + list->count, ids, (size_t)count * sizeof *ids);
        list->count += count;
    }
    return status;
}

enum status character_counts_add(struct character_counts *counts, const void *text, size_t size, struct error *error) {
    if (!counts->counts) counts->counts = calloc(CHARACTER_LIMIT, sizeof *counts->counts);
    if (!counts->counts) return error_set(error, STATUS_NO_MEMORY, "no memory left to count characters");
    const uint8_t *bytes = text;
    for (size_t at = 0, step; at < size; at += step) {
        bool replaced;
        counts->counts[utf8_next(bytes + at, size - at, &step, &replaced)]++;
        counts->replaced += replaced;
    }
    return STATUS_OK;
}

void character_counts_free(struct character_counts *counts) {
    free(counts->counts);
    *counts = (struct character_counts){0};
}

/* ---- making ----------------------------------------------------------------------------------------------------------------- */

/* GPT-2's byte alphabet: 21-7E, A1-AC and AE-FF are written as the character of the same number, the other 68 bytes in ascending order as U+0100, U+0101, ... */
static bool byte_is_printable(int byte) { return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE; }

static void byte_alphabet(uint32_t characters[256]) {
    uint32_t next = 0x100;
    for (int byte = 0; byte < 256; byte++) characters[byte] = byte_is_printable(byte) ? (uint32_t)byte : next++;
}

static enum status tokenizer_new(struct tokenizer **out, enum tokenizer_kind kind, int64_t size, struct error *error) {
    struct tokenizer *t = calloc(1, sizeof *t);
    if (t) t->pieces = calloc((size_t)size, sizeof *t->pieces);
    if (t && kind == TOKENIZER_CHARACTERS) t->character_ids = malloc(CHARACTER_LIMIT * sizeof *t->character_ids);
    if (!t || !t->pieces || (kind == TOKENIZER_CHARACTERS && !t->character_ids)) {
        if (t) free(t->pieces);
        free(t);
        return error_set(error, STATUS_NO_MEMORY, "no memory left for a vocabulary of %lld tokens", (long long)size);
    }
    t->kind = kind;
    t->size = size;
    t->eos = t->unknown = -1;
    if (t->character_ids) memset(t->character_ids, -1, CHARACTER_LIMIT * sizeof *t->character_ids);
    memset(t->byte_ids, -1, sizeof t->byte_ids);
    *out = t;
    return STATUS_OK;
}

void tokenizer_destroy(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    for (int64_t i = 0; i < tokenizer->size; i++) free(tokenizer->pieces[i].text);
    free(tokenizer->pieces);
    free(tokenizer->character_ids);
    free(tokenizer->added);
    free(tokenizer);
}

static enum status set_piece(struct tokenizer *t, int64_t id, const char *text, size_t length, struct error *error) {
    struct piece *piece = &t->pieces[id];
    piece->text = malloc(length + 1);
    if (!piece->text) return error_set(error, STATUS_NO_MEMORY, "no memory left for a vocabulary of %lld tokens", (long long)t->size);
    memcpy(piece->text, text, length);
    piece->text[length] = '\0';
    piece->length = (uint32_t)length;
    piece->present = true;
    return STATUS_OK;
}

static enum status set_added(struct tokenizer *t, int64_t id, const char *text, size_t length, bool special, struct error *error) {
    int32_t *added = realloc(t->added, (size_t)(t->added_count + 1) * sizeof *added);
    if (!added) return error_set(error, STATUS_NO_MEMORY, "no memory left for added tokens");
    t->added = added;
    if (!t->pieces[id].present) {
        enum status status = set_piece(t, id, text, length, error);
        if (status != STATUS_OK) return status;
    }
    t->pieces[id].added = true;
    t->pieces[id].special = special;
    int at = t->added_count++;
    for (; at > 0 && t->pieces[added[at - 1]].length < length; at--) added[at] = added[at - 1];
    added[at] = (int32_t)id;
    t->added_first[(uint8_t)text[0]] = 1;
    return STATUS_OK;
}

enum status tokenizer_create_bytes(struct tokenizer **tokenizer, struct error *error) {
    enum status status = tokenizer_new(tokenizer, TOKENIZER_BYTES, 257, error);
    if (status != STATUS_OK) return status;
    struct tokenizer *t = *tokenizer;
    int32_t id = 0;
    for (int printable = 1; printable >= 0; printable--) {
        for (int byte = 0; byte < 256 && status == STATUS_OK; byte++) {
            if (byte_is_printable(byte) != printable) continue;
            char text = (char)byte;
            t->byte_ids[byte] = id;
            status = set_piece(t, id++, &text, 1, error);
        }
    }
    if (status == STATUS_OK) status = set_added(t, 256, END_OF_DOCUMENT, strlen(END_OF_DOCUMENT), true, error);
    t->eos = 256;
    if (status == STATUS_OK) return STATUS_OK;
    tokenizer_destroy(t);
    *tokenizer = NULL;
    return status;
}

enum status tokenizer_create_characters(struct tokenizer **tokenizer, const struct character_counts *counts, struct error *error) {
    *tokenizer = NULL;
    int64_t size = 0;
    for (uint32_t c = 0; counts->counts && c < CHARACTER_LIMIT; c++) size += counts->counts[c] > 0;
    if (size == 0) return error_set(error, STATUS_INVALID, "no text to take characters from");
    enum status status = tokenizer_new(tokenizer, TOKENIZER_CHARACTERS, size + 1, error);
    if (status != STATUS_OK) return status;
    struct tokenizer *t = *tokenizer;
    int32_t id = 0;
    for (uint32_t c = 0; c < CHARACTER_LIMIT && status == STATUS_OK; c++) {
        if (counts->counts[c] == 0) continue;
        char text[4];
        t->character_ids[c] = id;
        status = set_piece(t, id++, text, utf8_put(c, text), error);
    }
    if (status == STATUS_OK) status = set_added(t, size, END_OF_DOCUMENT, strlen(END_OF_DOCUMENT), true, error);
    t->eos = (int32_t)size;
    if (status == STATUS_OK) return STATUS_OK;
    tokenizer_destroy(t);
    *tokenizer = NULL;
    return status;
}

enum tokenizer_kind tokenizer_kind(const struct tokenizer *tokenizer) { return tokenizer->kind; }
int64_t tokenizer_size(const struct tokenizer *tokenizer) { return tokenizer->size; }
int32_t tokenizer_eos(const struct tokenizer *tokenizer) { return tokenizer->eos; }

/* ---- encoding and decoding -------------------------------------------------------------------------------------------------- */

/* The added token that stands at text[0], the longest one; -1: none. */
static int32_t added_at(const struct tokenizer *t, const uint8_t *text, size_t size) {
    if (!t->added_first[text[0]]) return -1;
    for (int i = 0; i < t->added_count; i++) {
        const struct piece *piece = &t->pieces[t->added[i]];
        if (piece->length <= size && memcmp(piece->text, text, piece->length) == 0) return t->added[i];
    }
    return -1;
}

static enum status unknown_character(uint32_t character, size_t offset, struct error *error) {
    char text[5] = {0};
    utf8_put(character, text);
    bool visible = character > 0x20 && character != 0x7F && character != UTF8_REPLACEMENT && !(character >= 0x80 && character < 0xA1);
    return error_set(error, STATUS_INVALID, "byte %zu: the character U+%04X%s%s%s is not in the tokenizer's vocabulary", offset, character, visible ? " \"" : "",
                     visible ? text : "", visible ? "\"" : "");
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, const void *text, size_t size, bool special, struct token_list *out, uint64_t *replaced,
                             struct error *error) {
    const struct tokenizer *t = tokenizer;
    const uint8_t *bytes = text;
    int64_t count = out->count;
    uint64_t ill_formed = 0;
    size_t step;
    for (size_t at = 0; at < size; at += step) {
        if (out->count == out->capacity) {
            /* At most one id per byte is still to come; ask for that at once in small texts, in steps in large ones. */
            size_t left = size - at, more = left < 4096 ? left : left / 4 + 1024;
            enum status status = token_list_reserve(out, out->count + (int64_t)more, error);
            if (status != STATUS_OK) { out->count = count; return status; }
        }
        int32_t id = special ? added_at(t, bytes + at, size - at) : -1;
        if (id >= 0) {
            step = t->pieces[id].length;
        } else if (t->kind == TOKENIZER_BYTES) {
            id = t->byte_ids[bytes[at]];
            step = 1;
        } else {
            bool bad;
            uint32_t character = utf8_next(bytes + at, size - at, &step, &bad);
            ill_formed += bad;
            id = t->character_ids[character];
            if (id < 0) id = t->unknown;
            if (id < 0) { out->count = count; return unknown_character(character, at, error); }
        }
        out->ids[out->count++] = id;
    }
    if (replaced) *replaced += ill_formed;
    return STATUS_OK;
}

const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *length, bool *special) {
    if (id < 0 || id >= tokenizer->size || !tokenizer->pieces[id].present) return NULL;
    const struct piece *piece = &tokenizer->pieces[id];
    *length = piece->length;
    if (special) *special = piece->special;
    return piece->text;
}

enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, int64_t count, bool skip_special, char **text, size_t *size, struct error *error) {
    size_t bytes = 0, length;
    bool special;
    for (int64_t i = 0; i < count; i++) {
        const char *piece = tokenizer_piece(tokenizer, ids[i], &length, &special);
        if (piece && !(skip_special && special)) bytes += length;
    }
    *text = malloc(bytes + 1);
    if (!*text) return error_set(error, STATUS_NO_MEMORY, "no memory left for %zu bytes of text", bytes);
    *size = bytes;
    char *out = *text;
    for (int64_t i = 0; i < count; i++) {
        const char *piece = tokenizer_piece(tokenizer, ids[i], &length, &special);
        if (!piece || (skip_special && special)) continue;
        memcpy(out, piece, length);
        out += length;
    }
    *out = '\0';
    return STATUS_OK;
}

/* ---- tokenizer.json: writing ------------------------------------------------------------------------------------------------ */

/* The vocabulary's spelling of a piece: bytes in the byte alphabet's characters, characters as they are. */
static void vocabulary_key(const struct tokenizer *t, const uint32_t alphabet[256], const struct piece *piece, char key[8]) {
    size_t length = piece->length;
    if (t->kind == TOKENIZER_BYTES) length = utf8_put(alphabet[(uint8_t)piece->text[0]], key);
    else memcpy(key, piece->text, length);
    key[length] = '\0';
}

/* jansson takes no NUL in a key. In its objects the character U+0000 has the empty key, which no vocabulary of characters holds otherwise; in the file it is "\u0000". */
#define NUL_KEY "\"\\u0000\""
#define EMPTY_KEY "\n      \"\":"   /* as json_format writes it in model.vocab: strings hold no line ends, so it stands nowhere else */

static enum status write_tokenizer_json(const json_t *root, const char *path, struct error *error) {
    char *text, *spelled = NULL;
    size_t size;
    enum status status = json_format(root, &text, &size, error);
    if (status != STATUS_OK) return error_prefix(error, "%s", path);
    const char *empty = strstr(text, EMPTY_KEY);
    if (!empty) {
        status = file_replace(path, text, size, error);
    } else {
        int before = (int)(empty - text) + (int)strlen(EMPTY_KEY) - 3;
        int length = asprintf(&spelled, "%.*s" NUL_KEY "%s", before, text, text + before + 2);
        status = length < 0 ? error_set(error, STATUS_NO_MEMORY, "%s: no memory", path) : file_replace(path, spelled, (size_t)length, error);
    }
    free(spelled);
    free(text);
    return status;
}

/* *nul: the file has a key U+0000, which has become the empty key. A quote that begins a string has no backslash before it, so no other place can match. */
static enum status read_tokenizer_json(json_t **root, const char *path, bool *nul, struct error *error) {
    char *text;
    size_t size;
    enum status status = file_read(path, JSON_FILE_LIMIT, &text, &size, error);
    if (status != STATUS_OK) return status;
    *nul = false;
    for (char *at = text; (at = memmem(at, size - (size_t)(at - text), NUL_KEY, strlen(NUL_KEY))); at++) {
        const char *after = at + strlen(NUL_KEY);
        if (at == text || at[-1] == '\\' || after[strspn(after, " \t\r\n")] != ':') continue;
        memcpy(at, "\"\"      ", strlen(NUL_KEY));
        *nul = true;
    }
    status = json_parse(root, text, size, path, error);
    free(text);
    return status;
}

static json_t *added_tokens_json(const struct tokenizer *t) {
    json_t *list = json_array();
    for (int64_t id = 0; id < t->size; id++) {
        if (!t->pieces[id].added) continue;
        json_array_append_new(list, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", t->pieces[id].text, "single_word", 0,
                                              "lstrip", 0, "rstrip", 0, "normalized", 0, "special", (int)t->pieces[id].special));
    }
    return list;
}

static json_t *tokenizer_json(const struct tokenizer *t) {
    uint32_t alphabet[256];
    byte_alphabet(alphabet);
    json_t *vocabulary = json_object();
    for (int64_t id = 0; id < t->size; id++) {
        const struct piece *piece = &t->pieces[id];
        char key[8];
        if (!piece->present) continue;
        if (id == t->unknown) { json_object_set_new(vocabulary, piece->text, json_integer(id)); continue; }
        if (piece->added) continue;
        vocabulary_key(t, alphabet, piece, key);
        json_object_set_new(vocabulary, key, json_integer(id));
    }
    json_t *root = json_pack("{s:s, s:n, s:n, s:o, s:n}", "version", "1.0", "truncation", "padding", "added_tokens", added_tokens_json(t), "normalizer");
    if (t->kind == TOKENIZER_BYTES) {
        json_object_set_new(root, "pre_tokenizer", json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0));
        json_object_set_new(root, "post_processor", json_null());
        json_object_set_new(root, "decoder", json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1));
        json_object_set_new(root, "model", json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:[]}", "type", "BPE", "dropout", "unk_token",
                                                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0,
                                                     "vocab", vocabulary, "merges"));
    } else {
        json_object_set_new(root, "pre_tokenizer", json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", ANY_CHARACTER, "behavior", "Isolated", "invert", 0));
        json_object_set_new(root, "post_processor", json_null());
        json_object_set_new(root, "decoder", json_pack("{s:s}", "type", "Fuse"));
        /* The key unk_token is required by the library; a name outside the vocabulary makes an unknown character an error, there as here. */
        const char *unknown = t->unknown >= 0 ? t->pieces[t->unknown].text : UNKNOWN_NAME;
        json_object_set_new(root, "model", json_pack("{s:s, s:o, s:s}", "type", "WordLevel", "vocab", vocabulary, "unk_token", unknown));
    }
    return root;
}

enum status tokenizer_save(const struct tokenizer *tokenizer, const char *folder, struct error *error) {
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    json_t *root = tokenizer_json(tokenizer);
    enum status status = write_tokenizer_json(root, path, error);
    json_decref(root);
    if (status != STATUS_OK) return status;
    json_t *config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces", 0);
    if (tokenizer->eos >= 0) json_object_set_new(config, "eos_token", json_string(tokenizer->pieces[tokenizer->eos].text));
    if (tokenizer->unknown >= 0) json_object_set_new(config, "unk_token", json_string(tokenizer->pieces[tokenizer->unknown].text));
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    status = json_save_path(config, path, error);
    json_decref(config);
    return status;
}

/* ---- tokenizer.json: reading ------------------------------------------------------------------------------------------------ */

static const char *type_of(const json_t *value) {
    if (!value || json_is_null(value)) return "none";
    const char *type = json_string_value(json_object_get(value, "type"));
    return type ? type : "one without a type";
}

static enum status unsupported(struct error *error, const char *path, const char *what, const char *found) {
    return error_set(error, STATUS_UNSUPPORTED,
                     "%s: %s %s is not supported; this program reads byte-level BPE without merges (ByteLevel pre-tokenizer and decoder) and WordLevel over single characters "
                     "(Split by Regex %s, behavior Isolated, Fuse decoder)", path, what, found, ANY_CHARACTER);
}

static bool is_type(const json_t *value, const char *type) { return strcmp(type_of(value), type) == 0; }

/* Everything around the model, for both kinds. */
static enum status check_pipeline(const json_t *root, enum tokenizer_kind kind, const char *path, struct error *error) {
    const json_t *normalizer = json_object_get(root, "normalizer"), *pre = json_object_get(root, "pre_tokenizer");
    const json_t *post = json_object_get(root, "post_processor"), *decoder = json_object_get(root, "decoder");
    bool no_normalizer = is_type(normalizer, "none") || (is_type(normalizer, "Sequence") && json_array_size(json_object_get(normalizer, "normalizers")) == 0);
    if (!no_normalizer) return unsupported(error, path, "normalizer", type_of(normalizer));
    if (!is_type(post, "none") && !is_type(post, "ByteLevel")) return unsupported(error, path, "post_processor", type_of(post));
    if (kind == TOKENIZER_BYTES) {
        if (!is_type(pre, "ByteLevel")) return unsupported(error, path, "pre_tokenizer", type_of(pre));
        if (json_is_true(json_object_get(pre, "add_prefix_space"))) return unsupported(error, path, "pre_tokenizer", "ByteLevel with add_prefix_space");
        if (!is_type(decoder, "ByteLevel")) return unsupported(error, path, "decoder", type_of(decoder));
        return STATUS_OK;
    }
    if (!is_type(pre, "Split")) return unsupported(error, path, "pre_tokenizer", type_of(pre));
    const char *pattern = json_string_value(json_object_get(json_object_get(pre, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(pre, "behavior"));
    if (!pattern || strcmp(pattern, ANY_CHARACTER)) return unsupported(error, path, "the pattern of the pre_tokenizer Split", pattern ? pattern : "(not a Regex)");
    if (!behavior || strcmp(behavior, "Isolated")) return unsupported(error, path, "the behavior of the pre_tokenizer Split", behavior ? behavior : "(absent)");
    if (json_is_true(json_object_get(pre, "invert"))) return unsupported(error, path, "the pre_tokenizer Split with", "invert");
    if (!is_type(decoder, "Fuse")) return unsupported(error, path, "decoder", type_of(decoder));
    return STATUS_OK;
}

static enum status check_id(const char *path, const char *what, const json_t *value, struct error *error) {
    if (json_is_integer(value) && json_integer_value(value) >= 0 && json_integer_value(value) < VOCABULARY_LIMIT) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s: the id of %s is not an integer from 0 to %d", path, what, VOCABULARY_LIMIT - 1);
}

/* The largest id of vocabulary and added tokens, all ids and contents checked. */
static enum status largest_id(const json_t *vocabulary, const json_t *added, const char *path, int64_t *largest, struct error *error) {
    const char *key;
    json_t *value;
    size_t i;
    *largest = -1;
    json_object_foreach((json_t *)vocabulary, key, value) {
        enum status status = check_id(path, key, value, error);
        if (status != STATUS_OK) return status;
        if (json_integer_value(value) > *largest) *largest = json_integer_value(value);
    }
    json_array_foreach((json_t *)added, i, value) {
        const json_t *id = json_object_get(value, "id"), *content = json_object_get(value, "content");
        enum status status = check_id(path, "an added token", id, error);
        if (status != STATUS_OK) return status;
        if (!json_is_string(content) || json_string_length(content) == 0)
            return error_set(error, STATUS_INVALID, "%s: the added token with id %lld has no content", path, (long long)json_integer_value(id));
        if (json_integer_value(id) > *largest) *largest = json_integer_value(id);
    }
    return *largest >= 0 ? STATUS_OK : error_set(error, STATUS_INVALID, "%s: the vocabulary is empty", path);
}

static enum status read_vocabulary(struct tokenizer *t, const json_t *vocabulary, bool nul, const char *unknown, const char *path, struct error *error) {
    uint32_t alphabet[256];
    byte_alphabet(alphabet);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocabulary, key, value) {
        int64_t id = json_integer_value(value);
        size_t size = strlen(key), length = 0;
        bool ill_formed;
        uint32_t character = size > 0 ? utf8_next((const uint8_t *)key, size, &length, &ill_formed) : 0;
        if (t->pieces[id].present) return error_set(error, STATUS_INVALID, "%s: two entries of the vocabulary have the id %lld, one is \"%s\"", path, (long long)id, key);
        enum status status = STATUS_OK;
        if (unknown && strcmp(key, unknown) == 0) {
            t->unknown = (int32_t)id;
            status = set_piece(t, id, key, size, error);
        } else if (t->kind == TOKENIZER_CHARACTERS) {
            if (nul && size == 0) size = length = 1;   /* the NUL that ends the empty key */
            if (size == 0 || length != size) return unsupported(error, path, "the vocabulary entry", key);
            t->character_ids[character] = (int32_t)id;
            status = set_piece(t, id, key, size, error);
        } else {
            int byte = 0;
            while (byte < 256 && (length != size || alphabet[byte] != character)) byte++;
            if (byte == 256) continue;   /* no merge leads to it: only an added token can give it a meaning */
            char text = (char)byte;
            t->byte_ids[byte] = (int32_t)id;
            status = set_piece(t, id, &text, 1, error);
        }
        if (status != STATUS_OK) return status;
    }
    for (int byte = 0; t->kind == TOKENIZER_BYTES && byte < 256; byte++) {
        if (t->byte_ids[byte] < 0) return error_set(error, STATUS_UNSUPPORTED, "%s: the vocabulary has no entry for the byte %02X, expected all 256", path, (unsigned)byte);
    }
    return STATUS_OK;
}

static enum status read_added(struct tokenizer *t, const json_t *added, const char *path, struct error *error) {
    static const char *const refused[] = { "single_word", "lstrip", "rstrip" };
    json_t *value;
    size_t i;
    json_array_foreach((json_t *)added, i, value) {
        const json_t *content = json_object_get(value, "content");
        const char *text = json_string_value(content);
        int64_t id = json_integer_value(json_object_get(value, "id"));
        for (size_t k = 0; k < sizeof refused / sizeof *refused; k++) {
            if (json_is_true(json_object_get(value, refused[k])))
                return error_set(error, STATUS_UNSUPPORTED, "%s: the added token \"%s\" has %s true, which is not supported", path, text, refused[k]);
        }
        const struct piece *piece = &t->pieces[id];
        bool same = piece->present && piece->length == json_string_length(content) && memcmp(piece->text, text, piece->length) == 0;
        if (piece->added || (piece->present && !same))
            return error_set(error, STATUS_INVALID, "%s: the added token \"%s\" has the id %lld of another entry", path, text, (long long)id);
        enum status status = set_added(t, id, text, json_string_length(content), json_is_true(json_object_get(value, "special")), error);
        if (status != STATUS_OK) return status;
    }
    return STATUS_OK;
}

/* tokenizer_config.json's eos_token: a string, or an object with `content`. */
static enum status find_eos(struct tokenizer *t, const char *path, struct error *error) {
    char beside[4096];
    const char *slash = strrchr(path, '/');
    snprintf(beside, sizeof beside, "%.*stokenizer_config.json", slash ? (int)(slash - path + 1) : 0, path);
    if (file_exists(beside)) {
        json_t *config;
        enum status status = json_load_path(&config, beside, error);
        if (status != STATUS_OK) return status;
        const json_t *value = json_object_get(config, "eos_token");
        if (json_is_object(value)) value = json_object_get(value, "content");
        const char *name = json_string_value(value);
        for (int i = 0; name && i < t->added_count; i++)
            if (strcmp(t->pieces[t->added[i]].text, name) == 0) t->eos = t->added[i];
        if (name && t->eos < 0) status = error_set(error, STATUS_INVALID, "%s: eos_token \"%s\" is not among the added tokens of %s", beside, name, path);
        json_decref(config);
        return status;
    }
    int specials = 0;
    for (int i = 0; i < t->added_count; i++) {
        if (!t->pieces[t->added[i]].special) continue;
        specials++;
        t->eos = t->added[i];
    }
    if (specials != 1) t->eos = -1;
    return STATUS_OK;
}

static enum status read_tokenizer(struct tokenizer **out, const json_t *root, bool nul, const char *path, struct error *error) {
    const json_t *model = json_object_get(root, "model"), *vocabulary = json_object_get(model, "vocab"), *added = json_object_get(root, "added_tokens");
    if (!json_is_object(model)) return error_set(error, STATUS_INVALID, "%s: no object \"model\": this is not a tokenizer.json", path);
    /* Old files leave the model's type out: then the pre-tokenizer decides. */
    const char *type = json_object_get(model, "type") ? type_of(model) : json_object_get(model, "merges") ? "BPE" : "WordLevel";
    bool bytes = strcmp(type, "BPE") == 0;
    if (!bytes && strcmp(type, "WordLevel")) return unsupported(error, path, "model", type);
    if (!json_is_object(vocabulary)) return error_set(error, STATUS_INVALID, "%s: the model has no object \"vocab\"", path);
    if (added && !json_is_array(added)) return error_set(error, STATUS_INVALID, "%s: \"added_tokens\" is not an array", path);
    if (bytes && json_array_size(json_object_get(model, "merges")) > 0) {
        char found[64];
        snprintf(found, sizeof found, "BPE with %zu merges", json_array_size(json_object_get(model, "merges")));
        return unsupported(error, path, "model", found);
    }
    enum status status = check_pipeline(root, bytes ? TOKENIZER_BYTES : TOKENIZER_CHARACTERS, path, error);
    int64_t largest;
    if (status == STATUS_OK) status = largest_id(vocabulary, added, path, &largest, error);
    if (status == STATUS_OK) status = tokenizer_new(out, bytes ? TOKENIZER_BYTES : TOKENIZER_CHARACTERS, largest + 1, error);
    if (status != STATUS_OK) return status;
    status = read_vocabulary(*out, vocabulary, nul, json_string_value(json_object_get(model, "unk_token")), path, error);
    if (status == STATUS_OK) status = read_added(*out, added, path, error);
    if (status == STATUS_OK) status = find_eos(*out, path, error);
    if (status == STATUS_OK) return STATUS_OK;
    tokenizer_destroy(*out);
    *out = NULL;
    return status;
}

enum status tokenizer_load(struct tokenizer **tokenizer, const char *path, struct error *error) {
    *tokenizer = NULL;
    char file[4096];
    snprintf(file, sizeof file, "%s%s", path, file_is_folder(path) ? "/tokenizer.json" : "");
    json_t *root;
    bool nul;
    enum status status = read_tokenizer_json(&root, file, &nul, error);
    if (status != STATUS_OK) return status;
    status = read_tokenizer(tokenizer, root, nul, file, error);
    json_decref(root);
    return status;
}
