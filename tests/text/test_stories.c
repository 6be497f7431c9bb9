/* Stories: the same for the same (seed, index), within their bounds, well-formed, grammatical where a program can tell,
 * all different, and of many words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <xxhash.h>

#include "text/stories.h"

enum { STORIES = 20000 };
static char (*stories)[STORY_LIMIT];
static const uint64_t seed = 11;

static int make_stories(void **state) {
    (void)state;
    stories = malloc((size_t)STORIES * sizeof *stories);
    if (!stories) return -1;
    for (uint64_t i = 0; i < STORIES; i++) story_write(seed, i, stories[i]);
    return 0;
}
static int free_stories(void **state) {
    (void)state;
    free(stories);
    return 0;
}

static void test_function_of_seed_and_index(void **state) {
    (void)state;
    char text[STORY_LIMIT], other[STORY_LIMIT];
    for (int i = STORIES - 1; i >= 0; i -= 997) {
        size_t length = story_write(seed, (uint64_t)i, text);
        assert_string_equal(text, stories[i]);
        assert_int_equal(length, strlen(text));
        story_write(seed + 1, (uint64_t)i, other);
        assert_string_not_equal(text, other);
    }
    story_write(UINT64_MAX, UINT64_MAX, text);   /* every number is a story */
    story_write(UINT64_MAX, UINT64_MAX, other);
    assert_string_equal(text, other);
}

/* One that may never change, so that a corpus of today is the corpus of another machine. */
static void test_bytes_are_fixed(void **state) {
    (void)state;
    XXH64_state_t *hash = XXH64_createState();
    XXH64_reset(hash, 0);
    for (int i = 0; i < 500; i++) XXH64_update(hash, stories[i], strlen(stories[i]));
    uint64_t got = XXH64_digest(hash);
    XXH64_freeState(hash);
    if (got != 0x8a39f05e70349acau)
        fail_msg("the first 500 stories hash to 0x%016llx: a change of words or plots changes it here too",
                 (unsigned long long)got);
}

static void test_length_and_characters(void **state) {
    (void)state;
    long words_of_all = 0;
    for (int i = 0; i < STORIES; i++) {
        int words = 0;
        bool inside = false;
        for (const char *c = stories[i]; *c; c++) {
            bool space = *c == ' ' || *c == '\n';
            if (!space && !inside) words++;
            inside = !space;
            bool known = isalnum((unsigned char)*c) || strchr(" \n.,;:!?'\"-", *c);
            if (!known) fail_msg("story %d: a `%c` in: %s", i, *c, stories[i]);
            if (space && (c[1] == ' ' || c[1] == '\n' || !c[1] || c == stories[i]))
                fail_msg("story %d: two blanks, or one at an end: %s", i, stories[i]);
            if (*c == ' ' && strchr(".,;:!?", c[1])) fail_msg("story %d: a blank before a mark: %s", i, stories[i]);
        }
        if (words < STORY_WORDS_MIN || words > STORY_WORDS_MAX) fail_msg("story %d has %d words", i, words);
        words_of_all += words;
    }
    assert_in_range(words_of_all / STORIES, 120, 200);
}

/* Every paragraph begins like a sentence and ends like one, quotation marks come in pairs, and a capital follows the
 * end of a sentence. */
static void test_sentences(void **state) {
    (void)state;
    for (int i = 0; i < STORIES; i++) {
        const char *text = stories[i];
        int quotes = 0;
        bool begins = true;
        for (const char *c = text; *c; c++) {
            if (*c == '"') quotes++;
            if (begins && isalpha((unsigned char)*c)) {
                if (!isupper((unsigned char)*c)) fail_msg("story %d: no capital at `%.30s` in: %s", i, c, text);
                begins = false;
            }
            bool end_of_line = c[1] == '\n' || !c[1];
            if (end_of_line && *c != '\n') {
                const char *mark = *c == '"' ? c - 1 : c;
                if (!strchr(".!?", *mark)) fail_msg("story %d: a paragraph ends without a mark: %s", i, text);
                if (quotes % 2) fail_msg("story %d: an open quotation: %s", i, text);
                begins = true;
            }
            if (*c == '.' && (c[1] == ' ' || c[1] == '"')) begins = true;
            if (strchr("!?", *c) && c[1] == ' ') begins = true;
            if (*c == '"' && quotes % 2 == 1) begins = true;
        }
    }
}

static bool vowel_sound(const char *word) {
    if (strncasecmp(word, "uni", 3) == 0 || strncasecmp(word, "use", 3) == 0 || strncasecmp(word, "uku", 3) == 0 ||
        strncasecmp(word, "eu", 2) == 0 || strncasecmp(word, "one", 3) == 0)
        return false;
    return strncasecmp(word, "hour", 4) == 0 || strncasecmp(word, "honest", 6) == 0 ||
           strchr("aeiouAEIOU", *word) != NULL;
}

static void test_articles_and_doubles(void **state) {
    (void)state;
    static const char *const plurals[] = { "boots", "mittens", "cookies", "flowers", "people", "children" };
    for (int i = 0; i < STORIES; i++) {
        char before[64] = "";
        for (const char *c = stories[i]; *c;) {
            size_t length = 0;
            char word[64];
            while (isalpha((unsigned char)c[length]) || c[length] == '\'') length++;
            if (!length) {
                if (*c != ' ') before[0] = 0;
                c++;
                continue;
            }
            assert_true(length < sizeof word);
            memcpy(word, c, length);
            word[length] = 0;
            if (strcasecmp(before, word) == 0) fail_msg("story %d: `%s %s` in: %s", i, before, word, stories[i]);
            bool a = strcasecmp(before, "a") == 0, an = strcasecmp(before, "an") == 0;
            if ((a && vowel_sound(word)) || (an && !vowel_sound(word)))
                fail_msg("story %d: `%s %s` in: %s", i, before, word, stories[i]);
            if ((a || an))
                for (size_t k = 0; k < sizeof plurals / sizeof *plurals; k++)
                    if (strcmp(word, plurals[k]) == 0) fail_msg("story %d: `%s %s`", i, before, word);
            if (strcmp(before, "the") == 0 &&
                (strcmp(word, "a") == 0 || strcmp(word, "the") == 0 || strcmp(word, "an") == 0))
                fail_msg("story %d: two articles in: %s", i, stories[i]);
            strcpy(before, word);
            c += length;
        }
    }
}

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}
static int64_t count_distinct(uint64_t *hashes, int64_t n) {
    qsort(hashes, (size_t)n, sizeof *hashes, compare_u64);
    int64_t distinct = n > 0;
    for (int64_t i = 1; i < n; i++) distinct += hashes[i] != hashes[i - 1];
    return distinct;
}

static void test_no_two_are_equal(void **state) {
    (void)state;
    uint64_t *hashes = malloc(STORIES * sizeof *hashes);
    assert_non_null(hashes);
    for (int i = 0; i < STORIES; i++) hashes[i] = XXH64(stories[i], strlen(stories[i]), 0);
    assert_int_equal(count_distinct(hashes, STORIES), STORIES);
    free(hashes);
}

/* In 10 MB: at least 3,000 word forms; and among the sequences of five words of the first 2,000 stories at least one in
 * five is found once. */
static void test_words(void **state) {
    (void)state;
    size_t bytes = 0;
    int64_t words = 0, fives = 0;
    int last = 0;
    for (; last < STORIES && bytes < 10000000; last++) bytes += strlen(stories[last]) + 2;
    assert_true(bytes >= 10000000);
    uint64_t *hashes = malloc(bytes / 2 * sizeof *hashes), *sequences = malloc(bytes / 2 * sizeof *sequences);
    assert_non_null(hashes);
    assert_non_null(sequences);
    for (int i = 0; i < last; i++) {
        uint64_t history[5] = { 0 };
        for (const char *c = stories[i]; *c;) {
            char word[64];
            size_t length = 0;
            while ((isalpha((unsigned char)c[length]) || c[length] == '\'') && length < sizeof word)
                word[length] = (char)tolower((unsigned char)c[length]), length++;
            if (!length) {
                c++;
                continue;
            }
            memmove(history, history + 1, 4 * sizeof *history);
            hashes[words++] = history[4] = XXH64(word, length, 0);
            if (i < 2000 && history[0]) sequences[fives++] = XXH64(history, sizeof history, 0);
            c += length;
        }
    }
    int64_t forms = count_distinct(hashes, words), different = count_distinct(sequences, fives);
    print_message("%lld words in %d stories, %lld forms; %lld of %lld sequences of five are different\n",
                  (long long)words, last, (long long)forms, (long long)different, (long long)fives);
    assert_true(forms >= 3000);
    assert_true(different * 5 >= fives);
    free(hashes);
    free(sequences);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_function_of_seed_and_index),
        cmocka_unit_test(test_bytes_are_fixed),
        cmocka_unit_test(test_length_and_characters),
        cmocka_unit_test(test_sentences),
        cmocka_unit_test(test_articles_and_doubles),
        cmocka_unit_test(test_no_two_are_equal),
        cmocka_unit_test(test_words),
    };
    return cmocka_run_group_tests(tests, make_stories, free_stories);
}
