/* Which variant is chosen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"

static void test_supersets(void **state) {
    (void)state;
    assert_true(isa_available(ISA_REFERENCE));
    for (int i = 1; i < ISA_COUNT; i++) {
        if (isa_available((enum isa)i)) assert_true(isa_available((enum isa)(i - 1)));
    }
}

/* The kernel's own list of features says the same, but for AMX, which a process may also be refused. */
static void test_against_cpuinfo(void **state) {
    (void)state;
    FILE *file = fopen("/proc/cpuinfo", "r");
    static char line[16384];
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) found = strncmp(line, "flags", 5) == 0;
    if (file) fclose(file);
    if (!found) skip();   /* not x86 */
    const char *needed[ISA_COUNT] = {
        [ISA_AVX2] = "avx2 fma f16c", [ISA_AVX512] = "avx512f avx512bw avx512vl avx512dq avx512vbmi",
        [ISA_AVX512_BF16] = "avx512_bf16", [ISA_AMX] = "amx_tile amx_bf16"};
    line[strcspn(line, "\n")] = ' ';
    bool expected = true;
    for (int i = 1; i < ISA_COUNT; i++) {
        char words[128], *rest = NULL;
        snprintf(words, sizeof words, "%s", needed[i]);
        for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
            char padded[32];
            snprintf(padded, sizeof padded, " %s ", word);
            expected = expected && strstr(line, padded);
        }
        if (i == ISA_AMX) assert_true(expected || !isa_available(ISA_AMX));
        else assert_int_equal(isa_available((enum isa)i), expected);
    }
}

#ifdef __x86_64__
/* Where AMX is said to be available a tile instruction must not be refused. LDTILECFG of zeros is TILERELEASE in
 * effect. */
static void test_tiles_usable(void **state) {
    (void)state;
    if (!isa_available(ISA_AMX)) skip();
    _Alignas(64) uint8_t config[64] = {1};
    config[16] = 64, config[48] = 16;   /* tile 0: 64 bytes by 16 rows */
    __asm__ volatile("ldtilecfg %0\n\ttilezero %%tmm0\n\ttilerelease" : : "m"(config));
}
#endif

static void test_select(void **state) {
    (void)state;
    struct error error = {0};
    enum isa isa, best = ISA_REFERENCE;
    for (int i = 0; i < ISA_COUNT; i++) {
        if (isa_available((enum isa)i)) best = (enum isa)i;
    }
    unsetenv("DEEPSEEK_ISA");
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    assert_int_equal(isa, best);
    for (int i = 0; i < ISA_COUNT; i++) {
        setenv("DEEPSEEK_ISA", isa_name((enum isa)i), 1);
        isa = ISA_COUNT;
        enum status status = isa_select(&isa, &error);
        if (!isa_available((enum isa)i)) {
            assert_int_equal(status, STATUS_UNSUPPORTED);
            assert_non_null(strstr(error.message, isa_name((enum isa)i)));
            assert_non_null(strstr(error.message, "reference"));
            assert_int_equal(isa, ISA_COUNT);
        } else {
            assert_int_equal(status, STATUS_OK);
            assert_int_equal(isa, i == ISA_AVX512 && isa_available(ISA_AVX512_BF16) ? ISA_AVX512_BF16 : i);
        }
    }
    const char *unknown[] = {"AVX2", "avx", "sse", "avx2 ", "best", "neon"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        setenv("DEEPSEEK_ISA", unknown[i], 1);
        assert_int_equal(isa_select(&isa, &error), STATUS_INVALID);
        assert_non_null(strstr(error.message, unknown[i]));
        assert_non_null(strstr(error.message, "DEEPSEEK_ISA"));
    }
    unsetenv("DEEPSEEK_ISA");
}

static void test_names(void **state) {
    (void)state;
    const char *names[] = {"reference", "avx2", "avx512", "avx512bf16", "amx"};
    for (int i = 0; i < ISA_COUNT; i++) assert_string_equal(isa_name((enum isa)i), names[i]);
    const char *model = cpu_model_name();
    assert_true(strlen(model) > 0 && model[0] != ' ' && model[strlen(model) - 1] != ' ');
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_supersets), cmocka_unit_test(test_against_cpuinfo),
#ifdef __x86_64__
        cmocka_unit_test(test_tiles_usable),
#endif
        cmocka_unit_test(test_select), cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
