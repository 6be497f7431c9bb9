/* Step memory: buffers never overlap, everything coalesces again, a planning run predicts the peak. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "graph/graph.h"

#define BUFFERS 64

/* The same random takes and gives on both memories. */
static void churn(struct memory *memory, bool real) {
    struct { uint8_t *data; size_t bytes; } held[BUFFERS] = {{0}};
    for (uint64_t step = 0; step < 4000; step++) {
        const uint64_t slot = random_below(1, 2, step, BUFFERS);
        if (held[slot].data) {
            for (size_t i = 0; real && i < held[slot].bytes; i++) assert_int_equal(held[slot].data[i], slot);
            memory_give(memory, held[slot].data, held[slot].bytes);
            held[slot].data = NULL;
        } else {
            held[slot].bytes = (size_t)random_below(1, 3, step, 5000);
            held[slot].data = memory_take(memory, held[slot].bytes);
            assert_non_null(held[slot].data);
            assert_int_equal((uintptr_t)held[slot].data % 64, 0);
            if (real) memset(held[slot].data, (int)slot, held[slot].bytes);
        }
    }
    for (int i = 0; i < BUFFERS; i++) memory_give(memory, held[i].data, held[i].bytes);
    assert_int_equal(memory->used, 0);
    assert_non_null(memory->free_spans);
    assert_null(memory->free_spans->next);   /* one span again */
}

static void test_plan_and_run(void **state) {
    (void)state;
    struct memory plan, memory;
    assert_int_equal(memory_create_plan(&plan, NULL), STATUS_OK);
    churn(&plan, false);
    assert_int_equal(memory_create(&memory, plan.peak, NULL), STATUS_OK);   /* exactly what was planned suffices */
    churn(&memory, true);
    assert_int_equal(memory.peak, plan.peak);
    assert_int_equal(memory.used, 0);
    churn(&memory, true);   /* and again: all came back */
    assert_int_equal(memory.peak, plan.peak);
    memory_destroy(&memory);
    memory_destroy(&plan);
}

static void test_full(void **state) {
    (void)state;
    struct memory memory;
    assert_int_equal(memory_create(&memory, 1000, NULL), STATUS_OK);
    void *all = memory_take(&memory, 1000);
    assert_non_null(all);
    uint8_t *outside = memory_take(&memory, 5000);   /* does not fit: a mapping of its own */
    assert_non_null(outside);
    memset(outside, 1, 5000);
    assert_int_equal(memory.peak, 1024);
    memory_give(&memory, outside, 5000);
    assert_null(memory.outside);
    memory_give(&memory, all, 1000);
    assert_int_equal(memory.used, 0);
    assert_ptr_equal(memory_take(&memory, 1024), memory.base);
    memory_destroy(&memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plan_and_run), cmocka_unit_test(test_full)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
