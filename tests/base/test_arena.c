/* Arenas and whole mappings: zeroed, aligned, disjoint, and refused when absurdly large. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/arena.h"

static void test_alloc(void **state) {
    (void)state;
    struct arena arena = {0};
    enum { PIECES = 2000 };
    static uint8_t *piece[PIECES];
    static size_t size[PIECES];
    size_t total = 0;
    for (int i = 0; i < PIECES; i++) {
        /* Many small ones, now and then one larger than a chunk. */
        size[i] = i % 500 == 499 ? (size_t)3 << 20 : (size_t)(i * 37 % 3000);
        piece[i] = arena_alloc(&arena, size[i]);
        assert_non_null(piece[i]);
        assert_int_equal((uintptr_t)piece[i] % 64, 0);
        for (size_t j = 0; j < size[i]; j++) assert_int_equal(piece[i][j], 0);
        memset(piece[i], i % 251 + 1, size[i]);
        total += size[i];
    }
    /* Nobody wrote over anybody else. */
    for (int i = 0; i < PIECES; i++) {
        for (size_t j = 0; j < size[i]; j++) assert_int_equal(piece[i][j], i % 251 + 1);
    }
    assert_true(arena.used >= total && arena.used <= total + 64 * PIECES);
    arena_free(&arena);
    assert_null(arena.chunks);
    assert_int_equal(arena.used, 0);
    /* It can be used again, and its memory is zero again. */
    uint8_t *again = arena_alloc(&arena, 100);
    assert_non_null(again);
    for (int j = 0; j < 100; j++) assert_int_equal(again[j], 0);
    arena_free(&arena);
    arena_free(&arena);
}

static void test_too_large(void **state) {
    (void)state;
    struct arena arena = {0};
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_null(arena_alloc(&arena, SIZE_MAX - 100));
    assert_null(arena_alloc(&arena, SIZE_MAX / 4));
    assert_null(pages_alloc(SIZE_MAX));
    assert_null(pages_alloc(SIZE_MAX / 2));
    assert_non_null(arena_alloc(&arena, 1));   /* a refusal changes nothing */
    assert_int_equal(arena.used, 64);
    arena_free(&arena);
}

static void test_strings(void **state) {
    (void)state;
    struct arena arena = {0};
    char text[] = "layers";
    char *copy = arena_string(&arena, text);
    text[0] = 'p';
    assert_string_equal(copy, "layers");
    assert_string_equal(arena_string(&arena, ""), "");
    assert_string_equal(arena_printf(&arena, "model.layers.%d.%s", 12, "weight"), "model.layers.12.weight");
    char *wide = arena_printf(&arena, "%*d", 100000, 7);
    assert_int_equal(strlen(wide), 100000);
    arena_free(&arena);
}

static void test_pages(void **state) {
    (void)state;
    const size_t sizes[] = {0, 1, 4096, 4097, (2u << 20) - 1, 2u << 20, (2u << 20) + 1, 5000001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t *pages = pages_alloc(sizes[i]);
        assert_non_null(pages);
        assert_int_equal((uintptr_t)pages % (sizes[i] >= 2u << 20 ? 2u << 20 : 4096), 0);
        for (size_t j = 0; j < sizes[i]; j += 509) assert_int_equal(pages[j], 0);
        memset(pages, 1, sizes[i]);
        pages_free(pages, sizes[i]);
    }
    pages_free(NULL, 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
