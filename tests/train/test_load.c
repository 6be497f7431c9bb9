/* MaxVio and entropy of loads whose values are known. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "train/load.h"

static void known_loads(void **state) {
    (void)state;
    static const struct { int64_t counts[4], experts; double violation, entropy; } cases[] = {
        { { 5, 5, 5, 5 }, 4, 0, 1 },
        { { 0, 20, 0, 0 }, 4, 3, 0 },
        { { 10, 10, 0, 0 }, 4, 1, 0.5 },          /* ln 2 / ln 4 */
        { { 6, 3, 2, 1 }, 4, 1, 0.8647869793 },   /* (1/2 ln 2 + 1/4 ln 4 + 1/6 ln 6 + 1/12 ln 12) / ln 4 */
        { { 1, 2 }, 2, 1.0 / 3, 0.9182958341 },   /* in bits: 1/3 log2 3 + 2/3 log2 1.5 */
        { { 7 }, 1, 0, 1 },
        { { 0, 0, 0, 0 }, 4, 0, 1 },
        { { (int64_t)1 << 50, (int64_t)1 << 50 }, 2, 0, 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const double violation = load_violation(cases[i].counts, cases[i].experts),
                     entropy = load_entropy(cases[i].counts, cases[i].experts);
        if (fabs(violation - cases[i].violation) > 1e-14 || fabs(entropy - cases[i].entropy) > 1e-9)
            fail_msg("case %zu: violation %.17g, entropy %.17g", i, violation, entropy);
    }
    assert_int_equal(load_total(cases[3].counts, 4), 12);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(known_loads) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
