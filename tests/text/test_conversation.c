/* Turns of a conversation (text/conversation.h): what the model sees after every change, what a full context keeps,
 * what is kept of an answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "text/conversation.h"

#define DATA "tests/text/data/"

static struct error error;
static struct tokenizer *bytes, *full;   /* without BOS; V4's: it has the markers */

static int load(void **state) {
    (void)state;
    return tokenizer_create_bytes(&bytes, &error) || tokenizer_load(&full, DATA "deepseek.tokenizer.json", &error);
}

static int unload(void **state) {
    (void)state;
    tokenizer_destroy(bytes);
    tokenizer_destroy(full);
    return 0;
}

static struct conversation begin(enum chat_format format, int64_t context, const char *system) {
    const struct tokenizer *tokenizer = format == CHAT_PLAIN ? bytes : full;
    struct conversation c = {.context = context, .vocab = tokenizer_size(tokenizer)};
    assert_int_equal(chat_style_make(&c.style, format, tokenizer, -1, &error), STATUS_OK);
    if (system) assert_int_equal(chat_text_put(&c.system, system, strlen(system), &error), STATUS_OK);
    return c;
}

static void add(struct conversation *c, const char *message) {
    if (conversation_add(c, message, strlen(message), NULL, &error)) fail_msg("%s", error.message);
}

/* As a model would: the ids of `text`, of which `kept` bytes are left (-1: all). */
static void answer(struct conversation *c, const char *text, int kept) {
    struct token_list ids = { 0 };
    struct chat_answer making;
    size_t skip, size = kept < 0 ? strlen(text) : (size_t)kept;
    assert_int_equal(tokenizer_encode(c->style.tokenizer, text, strlen(text), false, &ids, NULL, &error), STATUS_OK);
    assert_int_equal(chat_answer_begin(&making, c, &error), STATUS_OK);
    for (int64_t i = 0; i < ids.count; i++)
        assert_int_equal(chat_answer_take_id(&making, ids.ids[i], &error), STATUS_OK);
    assert_int_equal(chat_answer_take_text(&making, text, size, &skip, &error), STATUS_OK);
    assert_int_equal(skip, 0);
    assert_int_equal(chat_answer_end(&making, text, size, kept < 0 ? ids.count : kept, kept >= 0, true, &error),
                     STATUS_OK);
    token_list_free(&ids);
}

/* What the model sees is the text, control tokens by their names. */
static void sees(const struct conversation *c, const char *expected) {
    char *text;
    size_t size;
    assert_int_equal(tokenizer_decode(c->style.tokenizer, c->ids.ids, c->ids.count, false, &text, &size, &error),
                     STATUS_OK);
    assert_string_equal(text, expected);
    free(text);
}

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"

static void turns_are_rendered_anew(void **state) {
    (void)state;
    struct conversation c = begin(CHAT_V3, 100, "Be kind.");
    assert_null(conversation_last(&c));
    add(&c, "Hello");
    sees(&c, BOS "Be kind." USER "Hello" ASSISTANT);
    answer(&c, "Good day", -1);
    sees(&c, BOS "Be kind." USER "Hello" ASSISTANT "Good day");
    add(&c, "You?");
    sees(&c, BOS "Be kind." USER "Hello" ASSISTANT "Good day" EOS USER "You?" ASSISTANT);
    answer(&c, "Well", -1);
    const uint64_t stream = conversation_stream(&c);
    assert_int_equal(conversation_retry(&c, &error), STATUS_OK);
    assert_true(conversation_stream(&c) != stream);
    assert_false(conversation_last(&c)->finished);
    sees(&c, BOS "Be kind." USER "Hello" ASSISTANT "Good day" EOS USER "You?" ASSISTANT);
    assert_int_equal(conversation_undo(&c, &error), STATUS_OK);
    sees(&c, BOS "Be kind." USER "Hello" ASSISTANT "Good day");
    conversation_clear(&c);
    sees(&c, "");
    /* an answer that is known as a text is the same text to the model */
    assert_int_equal(conversation_add_answered(&c, "Hello", 5, "Good day", 8, &error), STATUS_OK);
    assert_int_equal(conversation_look(&c, &error), STATUS_OK);
    sees(&c, BOS "Be kind." USER "Hello" ASSISTANT "Good day");
    assert_true(conversation_last(&c)->finished);
    conversation_free(&c);
}

static void what_is_refused_changes_nothing(void **state) {
    (void)state;
    struct conversation c = begin(CHAT_PLAIN, 10, NULL);
    add(&c, "abc");
    assert_int_equal(conversation_add(&c, "0123456789", 10, NULL, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "the message has 10 tokens, expected less than 10 (the context)"));
    c.vocab = 100;   /* `bytes` has another order of ids than ASCII: one of these is beyond */
    assert_int_equal(conversation_add_answered(&c, "a", 1, "\xC3\xBF", 2, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "(the model's vocabulary)"));
    assert_int_equal(c.turn_count, 1);
    sees(&c, "abc");
    conversation_free(&c);
}

static void what_is_kept_of_an_answer(void **state) {
    (void)state;
    struct conversation c = begin(CHAT_PLAIN, 100, NULL);
    struct chat_answer failed;
    add(&c, "ab");
    answer(&c, "cdefgh", 3);   /* a stop string behind three bytes */
    sees(&c, "abcde");
    assert_string_equal(conversation_last(&c)->answer.text, "cde");
    answer(&c, "xy", -1);      /* it goes on */
    sees(&c, "abcdexy");
    assert_string_equal(conversation_last(&c)->answer.text, "cdexy");
    assert_int_equal(chat_answer_begin(&failed, &c, &error), STATUS_OK);
    assert_int_equal(chat_answer_take_id(&failed, 7, &error), STATUS_OK);
    assert_int_equal(chat_answer_end(&failed, NULL, 0, 0, false, true, &error), STATUS_OK);
    sees(&c, "abcdexy");
    assert_false(conversation_last(&c)->finished);
    conversation_free(&c);
}

static void a_full_plain_text_loses_its_beginning(void **state) {
    (void)state;
    struct conversation c = begin(CHAT_PLAIN, 10, NULL);
    int64_t dropped;
    add(&c, "abcdef");
    answer(&c, "ghi", -1);
    add(&c, "jk");
    sees(&c, "abcdefghijk");
    assert_int_equal(conversation_make_room(&c, 2, &dropped, &error), STATUS_OK);
    assert_int_equal(dropped, 6);
    assert_int_equal(c.forgotten, 6);
    sees(&c, "ghijk");
    assert_int_equal(c.turns[0].start, -1);
    assert_int_equal(c.turns[0].answer_start, -1);   /* what stands before it is gone */
    assert_int_equal(c.turns[1].start, 3);
    assert_int_equal(conversation_make_room(&c, 9, &dropped, &error), STATUS_OK);   /* there is room */
    assert_int_equal(dropped, 0);
    answer(&c, "lmno", -1);
    sees(&c, "ghijklmno");
    assert_int_equal(conversation_make_room(&c, 7, &dropped, &error), STATUS_OK);
    sees(&c, "ijklmno");
    conversation_free(&c);
}

/* What was dropped for an answer is there again where the answer is not: more may have been dropped than is left. */
static void an_answer_that_outgrew_the_context_may_fail(void **state) {
    (void)state;
    struct conversation c = begin(CHAT_PLAIN, 8, NULL);
    for (int kept = 0; kept < 7; kept += 6) {
        struct chat_answer making;
        int64_t dropped;
        add(&c, "abcd");
        assert_int_equal(chat_answer_begin(&making, &c, &error), STATUS_OK);
        for (int times = 0; times < 2; times++) {
            for (int32_t id = 0; id < 4; id++)
                assert_int_equal(chat_answer_take_id(&making, id, &error), STATUS_OK);
            assert_int_equal(conversation_make_room(&c, 0, &dropped, &error), STATUS_OK);
            assert_int_equal(dropped, 4);
        }
        assert_int_equal(chat_answer_end(&making, kept ? "......" : NULL, (size_t)kept, kept, true, true, &error),
                         STATUS_OK);
        assert_int_equal(c.ids.count, 4);
        if (!kept) sees(&c, "abcd");
        else assert_int_equal(c.ids.ids[0], 2);
        conversation_clear(&c);
    }
    conversation_free(&c);
}

static void a_full_conversation_loses_whole_turns(void **state) {
    (void)state;
    struct conversation c = begin(CHAT_V3, 24, "Be kind.");   /* 4 tokens with what begins it */
    int64_t dropped;
    for (int i = 0; i < 3; i++) {
        add(&c, "Hello");
        answer(&c, " a a a", -1);
    }
    assert_int_equal(conversation_make_room(&c, 0, &dropped, &error), STATUS_OK);
    assert_true(dropped > 0);
    assert_int_equal(c.first_turn, 2);
    sees(&c, BOS "Be kind." USER "Hello" ASSISTANT " a a a");
    /* a single turn loses the beginning of its answer */
    answer(&c, " b b b b b b b b b b", -1);
    assert_int_equal(conversation_make_room(&c, 0, &dropped, &error), STATUS_OK);
    assert_int_equal(c.ids.count, 12);
    assert_int_equal(dropped, c.trimmed);
    assert_int_equal(conversation_undo(&c, &error), STATUS_OK);   /* room for the one before */
    sees(&c, BOS "Be kind." USER "Hello" ASSISTANT " a a a");
    assert_int_equal(c.first_turn, 1);
    conversation_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_are_rendered_anew),
        cmocka_unit_test(what_is_refused_changes_nothing),
        cmocka_unit_test(what_is_kept_of_an_answer),
        cmocka_unit_test(a_full_plain_text_loses_its_beginning),
        cmocka_unit_test(an_answer_that_outgrew_the_context_may_fail),
        cmocka_unit_test(a_full_conversation_loses_whole_turns),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
