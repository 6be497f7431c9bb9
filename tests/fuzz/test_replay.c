/* Every committed input of tests/fuzz/corpus/<target>/ through its fuzz target, in an ordinary build. A new target is
 * two lines here. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"

/* Each target is a source of its own with the one name that libFuzzer calls; here they get one name each. */
#define require require_json
#define LLVMFuzzerTestOneInput fuzz_json
#include "fuzz_json.c"
#undef LLVMFuzzerTestOneInput
#undef require

#define require require_safetensors
#define LLVMFuzzerTestOneInput fuzz_safetensors
#include "fuzz_safetensors.c"
#undef LLVMFuzzerTestOneInput
#undef require

#define require require_config
#define LLVMFuzzerTestOneInput fuzz_config
#include "fuzz_config.c"
#undef LLVMFuzzerTestOneInput
#undef require

#define require require_checkpoint
#define LLVMFuzzerTestOneInput fuzz_checkpoint
#include "fuzz_checkpoint.c"
#undef LLVMFuzzerTestOneInput
#undef require

#define require require_tokenizer
#define LLVMFuzzerTestOneInput fuzz_tokenizer
#include "fuzz_tokenizer.c"
#undef LLVMFuzzerTestOneInput
#undef require

#define require require_encode
#define LLVMFuzzerTestOneInput fuzz_encode
#include "fuzz_encode.c"
#undef LLVMFuzzerTestOneInput
#undef require

#define require require_chat
#define LLVMFuzzerTestOneInput fuzz_chat
#include "fuzz_chat.c"
#undef LLVMFuzzerTestOneInput
#undef require

#define require require_sequence
#define LLVMFuzzerTestOneInput fuzz_sequence
#include "fuzz_sequence.c"
#undef LLVMFuzzerTestOneInput
#undef require

static void replay(const char *target, int (*run)(const uint8_t *, size_t)) {
    char path[512];
    struct dirent **items;
    int seen = 0;
    snprintf(path, sizeof path, "tests/fuzz/corpus/%s", target);
    int count = scandir(path, &items, NULL, alphasort);
    assert_true(count > 0);
    for (int i = 0; i < count; i++) {
        struct error error = { 0 };
        char *data;
        size_t size;
        snprintf(path, sizeof path, "tests/fuzz/corpus/%s/%.255s", target, items[i]->d_name);
        if (items[i]->d_name[0] != '.') {
            if (file_read(path, 16 << 20, &data, &size, &error) != STATUS_OK) fail_msg("%s", error.message);
            /* An exact copy, so that a sanitizer sees a read beyond the end. */
            uint8_t *copy = malloc(size ? size : 1);
            assert_non_null(copy);
            memcpy(copy, data, size);
            free(data);
            fprintf(stderr, "%s\n", path);   /* the last line names the input that made a target stop */
            run(copy, size);
            free(copy);
            seen++;
        }
        free(items[i]);
    }
    free(items);
    assert_true(seen > 0);
}

static void test_json(void **state) { (void)state; replay("json", fuzz_json); }
static void test_safetensors(void **state) { (void)state; replay("safetensors", fuzz_safetensors); }
static void test_config(void **state) { (void)state; replay("config", fuzz_config); }
static void test_checkpoint(void **state) { (void)state; replay("checkpoint", fuzz_checkpoint); }
static void test_tokenizer(void **state) { (void)state; replay("tokenizer", fuzz_tokenizer); }
static void test_encode(void **state) { (void)state; replay("encode", fuzz_encode); }
static void test_chat(void **state) { (void)state; replay("chat", fuzz_chat); }
static void test_sequence(void **state) { (void)state; replay("sequence", fuzz_sequence); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_safetensors),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_checkpoint),
        cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_sequence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
