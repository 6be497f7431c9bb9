/* The load of experts: the formulas stand in the header. */
#include "train/load.h"

#include <math.h>

int64_t load_total(const int64_t *counts, int64_t experts) {
    int64_t total = 0;
    for (int64_t i = 0; i < experts; i++) total += counts[i];
    return total;
}

double load_violation(const int64_t *counts, int64_t experts) {
    int64_t total = load_total(counts, experts), most = 0;
    for (int64_t i = 0; i < experts; i++) most = counts[i] > most ? counts[i] : most;
    return total > 0 ? (double)most * (double)experts / (double)total - 1 : 0;
}

double load_entropy(const int64_t *counts, int64_t experts) {
    int64_t total = load_total(counts, experts);
    double entropy = 0;
    if (total == 0 || experts < 2) return 1;
    for (int64_t i = 0; i < experts; i++) {
        const double share = (double)counts[i] / (double)total;
        if (counts[i] > 0) entropy -= share * log(share);
    }
    return entropy / log((double)experts);
}
