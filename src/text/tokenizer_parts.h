/* What a tokenizer is made of, for the files that make and use it: tokenizer_json.c reads it, tokenizer_config.c adds
 * what belongs to its texts, encode.c and decode.c work with it. */
#ifndef DEEPSEEK_TEXT_TOKENIZER_PARTS_H
#define DEEPSEEK_TEXT_TOKENIZER_PARTS_H

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/tokenizer.h"

/* ids of a file: far above any real vocabulary, so that a wrong id cannot ask for gigabytes */
#define VOCABULARY_LIMIT BPE_LIMIT
#define END_OF_DOCUMENT "<|endoftext|>"
#define UNKNOWN_NAME "<unk>"
#define ANY_CHARACTER "[\\s\\S]"     /* the pattern of `characters` */

enum {
    PIECE_DEFINED = 1,
    PIECE_ADDED = 2,
    PIECE_SPECIAL = 4,
    /* its name was all in the byte alphabet and stands for these bytes; else the name is the text */
    PIECE_BYTES = 8,
};

/* the bytes are text[offset ..) of the tokenizer; JSON_FILE_LIMIT bounds both */
struct piece { uint32_t offset; uint32_t flags : 4, length : 28; };

/* Open addressing over the pieces of the vocabulary: half of the hash and the id; a slot of -1 is empty. */
struct piece_table { struct piece_slot { uint32_t hash; int32_t id; } *slots; int bits; };

struct tokenizer {
    enum tokenizer_kind kind;
    enum pipeline pipeline;
    bool ignore_merges;               /* a piece of the text that is in the vocabulary is not merged */
    int64_t size, merges;
    struct piece *pieces;             /* [size] */
    uint8_t *text;                    /* of the pieces */
    struct piece_table table;         /* BPE */
    struct bpe bpe;                   /* BPE and bytes */
    int32_t *character_ids;           /* characters: [CHARACTER_LIMIT], -1 where there is none */
    int32_t unknown;                  /* characters: what takes the other characters, -1: none */
    struct added_tokens added;
    int32_t bos, eos;                 /* -1: none */
    bool add_bos;
    uint64_t fingerprint;
    char *json, *config;              /* the files it was read from; config NULL where there was none */
    size_t json_size, config_size;
};

enum status token_list_reserve(struct token_list *list, int64_t capacity, struct error *error);

/* The id of a piece of the vocabulary by its bytes, or by its name where that is not all in the byte alphabet; -1:
 * none. */
int32_t piece_find(const struct tokenizer *tokenizer, const uint8_t *bytes, size_t length, bool is_bytes);

/* encoder_encode for a part of a text: messages name places in the whole. */
enum status encoder_encode_part(struct encoder *encoder, const uint8_t *whole, size_t begin, size_t end, bool special,
                                struct token_list *out, uint64_t *replaced, struct error *error);

/* Everything of tokenizer.json. Takes the malloc'ed text, also where it fails. *template_bos: the id that a
 * TemplateProcessing puts in front of a text, -1: none. */
enum status tokenizer_read_json(struct tokenizer **tokenizer, char *json, size_t size, const char *origin,
                                int32_t *template_bos, struct error *error);
/* tokenizer_config.json, NULL where there is none; takes the malloc'ed text too. */
enum status tokenizer_read_config(struct tokenizer *tokenizer, char *config, size_t size, const char *origin,
                                  int32_t template_bos, struct error *error);

#endif
