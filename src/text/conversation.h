/* A conversation as its turns. What the model sees of them is made anew after every change, so an undone or edited turn
 * needs nothing else: a sequence keeps the beginning that is still the same (model/sequence.h). An answer stays the ids
 * that the model chose, since its text might be encoded otherwise.
 *
 * When the context is full, a plain text (text/chat.h) loses its oldest ids, wherever they stand, but for a token that
 * begins texts; a conversation with roles loses whole turns, and keeps its system text. Of the last turn, which stays,
 * the answer loses its oldest ids where its message leaves room for that. */
#ifndef DEEPSEEK_TEXT_CONVERSATION_H
#define DEEPSEEK_TEXT_CONVERSATION_H

#include "text/chat.h"

struct turn {
    struct chat_text message, answer;   /* the answer without what the format puts around it */
    struct token_list answer_ids;  /* what the model chose */
    struct chat_parser parsed;     /* of formats with markers: the answer, taken apart */
    bool thinking;                 /* the prompt asked for reasoning */
    bool as_text;                  /* the answer came from a file, without ids */
    bool finished;                 /* the answer met its end: nothing goes on */
    int64_t start, answer_start;   /* where the message and its answer begin in ids; -1: that has left the context */
    uint64_t attempt;              /* answers before this one */
};

struct conversation {
    /* the caller's; `style` may change between turns */
    struct chat_style style;
    int64_t context, vocab;        /* ids that fit; ids that the model knows */

    struct chat_text system;       /* text NULL: none */

    struct turn *turns;
    int64_t turn_count;
    struct token_list ids;         /* what the model sees */
    int64_t skipped;               /* plain: so many of the oldest ids are dropped */
    int64_t first_turn;            /* with roles: the turns before this one are dropped, */
    int64_t trimmed;               /* and, where it is the last one, so many ids of its answer */
    uint64_t forgotten;            /* ids that were dropped: positions come again then */
};
void conversation_clear(struct conversation *c);   /* of turns; the system text stays */
void conversation_free(struct conversation *c);
struct turn *conversation_last(const struct conversation *c);   /* NULL: there is none */
/* The stream of random numbers of the last turn's answer: another one for each attempt and each position. */
uint64_t conversation_stream(const struct conversation *c);

/* ---- turns ------------------------------------------------------------------------------------------------------- */

/* A message that an answer is to follow. `replaced` (may be NULL): ill-formed sequences. A message that the format, the
 * model or the context has no place for is STATUS_INVALID; nothing has changed then. */
enum status conversation_add(struct conversation *c, const char *message, size_t size, uint64_t *replaced,
                             struct error *error);
/* A message with an answer that is known as a text; conversation_look has to follow. */
enum status conversation_add_answered(struct conversation *c, const char *message, size_t size, const char *answer,
                                      size_t answer_size, struct error *error);
/* The last turn is taken back; or its answer, and another one is to follow. */
enum status conversation_undo(struct conversation *c, struct error *error);
enum status conversation_retry(struct conversation *c, struct error *error);
/* `ids` become what the model sees of the turns. */
enum status conversation_look(struct conversation *c, struct error *error);
/* The same when the context is full: half of it stays, of a plain text `wanted` ids where those are more. What is
 * dropped is not seen again; `dropped`: so many ids. */
enum status conversation_make_room(struct conversation *c, int64_t wanted, int64_t *dropped, struct error *error);

/* ---- an answer that is being made, of the last turn -------------------------------------------------------------- */

struct chat_answer {
    struct conversation *conversation;
    int64_t start, skipped;        /* ids that the turn had already; `skipped` of then */
    size_t before, released;       /* visible bytes of those ids; bytes of text since */
    struct chat_parser parser;     /* of formats with markers: the answer up to now, taken apart */
};
/* What the turn has of an answer goes on. */
enum status chat_answer_begin(struct chat_answer *answer, struct conversation *c, struct error *error);
/* An id as it is chosen, then text as it may be shown: `skip` bytes of its beginning belong to the format. */
enum status chat_answer_take_id(struct chat_answer *answer, int32_t id, struct error *error);
enum status chat_answer_take_text(struct chat_answer *answer, const char *text, size_t size, size_t *skip,
                                  struct error *error);
/* All of the new text, that of the first `tokens` new ids, which stay: without what ended it. NULL: nothing of it
 * stays. `stopped`: by a stop string; `finished`: nothing may go on. */
enum status chat_answer_end(struct chat_answer *answer, const char *text, size_t size, int64_t tokens, bool stopped,
                            bool finished, struct error *error);

#endif
