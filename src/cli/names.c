/* Suggestions for mistyped names (names.h). */
#include "cli/names.h"

#include <limits.h>
#include <string.h>

/* Edits (insert, delete, replace, swap neighbours) that turn a into b: optimal string alignment. */
static int edit_distance(const char *a, const char *b) {
    int rows[3][LONGEST_NAME + 2];
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > LONGEST_NAME || m > LONGEST_NAME) return INT_MAX;
    int *before = rows[0], *last = rows[1], *row = rows[2];
    for (int j = 0; j <= m; j++) last[j] = j;
    for (int i = 1; i <= n; i++) {
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            row[j] = best;
        }
        int *recycled = before;
        before = last, last = row, row = recycled;
    }
    return last[m];
}

void nearest_begin(struct nearest *nearest, const char *wanted) {
    *nearest = (struct nearest){ wanted, NULL, INT_MAX };
}

void nearest_try(struct nearest *nearest, const char *name) {
    int distance = edit_distance(nearest->wanted, name);
    size_t length = strlen(nearest->wanted);
    if (length >= 2 && strncmp(nearest->wanted, name, length) == 0) distance = 1;
    if (distance > 1 + (int)length / 3 || distance >= nearest->distance) return;
    nearest->distance = distance;
    nearest->name = name;
}
