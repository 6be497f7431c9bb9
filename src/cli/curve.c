/* The loss curve in characters: training loss averaged over each column's steps, held-out loss as points. */
#include "cli/curve.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEIGHT 14
#define LABEL 9           /* columns left of the plot */
#define MIN_WIDTH 20
#define MAX_WIDTH 100

struct points { double *steps, *losses; size_t count; };

static void add_point(struct points *points, double step, double loss) {
    if ((points->count & (points->count - 1)) == 0) {   /* room for a power of two, doubled when full */
        size_t room = points->count ? 2 * points->count : 1;
        double *steps = realloc(points->steps, room * sizeof *steps);
        if (steps) points->steps = steps;
        double *losses = realloc(points->losses, room * sizeof *losses);
        if (losses) points->losses = losses;
        if (!steps || !losses) return;
    }
    points->steps[points->count] = step;
    points->losses[points->count++] = loss;
}

static void read_points(FILE *file, struct points *training, struct points *held_out) {
    char *line = NULL;
    size_t size = 0;
    double step, loss;
    while (getline(&line, &size, file) >= 0) {
        if (sscanf(line, "{\"step\": %lf, \"loss\": %lf", &step, &loss) == 2 && isfinite(loss)) {
            /* the part that an evaluation measures, where the loss has others */
            const char *part = strstr(line, "\"loss_main\": ");
            if (part) sscanf(part, "\"loss_main\": %lf", &loss);
            add_point(training, step, loss);
        } else if (sscanf(line, "{\"step\": %lf, \"eval_loss\": %lf", &step, &loss) == 2 && isfinite(loss))
            add_point(held_out, step, loss);
    }
    free(line);
}

static int column_of(double step, double last, int width) {
    int column = (int)((step - 1) / last * width);
    return column < 0 ? 0 : column >= width ? width - 1 : column;
}

static int row_of(double loss, double low, double high) {
    int row = (int)lround((high - loss) / (high - low) * (HEIGHT - 1));
    return row < 0 ? 0 : row >= HEIGHT ? HEIGHT - 1 : row;
}

static void draw(FILE *out, const struct points *training, const struct points *held_out, int width) {
    double last = training->steps[training->count - 1], low = DBL_MAX, high = -DBL_MAX, sums[MAX_WIDTH] = {0};
    int counts[MAX_WIDTH] = {0};
    char plot[HEIGHT][MAX_WIDTH];
    memset(plot, ' ', sizeof plot);
    if (width > last) width = (int)last;
    for (size_t i = 0; i < training->count; i++) {
        int column = column_of(training->steps[i], last, width);
        sums[column] += training->losses[i];
        counts[column]++;
    }
    for (int c = 0; c < width; c++) {
        if (!counts[c]) continue;
        low = fmin(low, sums[c] / counts[c]);
        high = fmax(high, sums[c] / counts[c]);
    }
    for (size_t i = 0; i < held_out->count; i++) {
        low = fmin(low, held_out->losses[i]);
        high = fmax(high, held_out->losses[i]);
    }
    if (!(high - low > 1e-9)) high = low + 1e-9;
    for (int c = 0; c < width; c++)
        if (counts[c]) plot[row_of(sums[c] / counts[c], low, high)][c] = '*';
    for (size_t i = 0; i < held_out->count; i++)
        plot[row_of(held_out->losses[i], low, high)][column_of(held_out->steps[i], last, width)] = 'o';
    for (int r = 0; r < HEIGHT; r++) {
        int end = width;
        while (end > 0 && plot[r][end - 1] == ' ') end--;
        if (r == 0 || r == HEIGHT - 1 || r == HEIGHT / 2)
            fprintf(out, "%*.3f |%.*s\n", LABEL - 2, high - (high - low) * r / (HEIGHT - 1), end, plot[r]);
        else fprintf(out, "%*s|%.*s\n", LABEL - 1, "", end, plot[r]);
    }
    fprintf(out, "%*s+", LABEL - 1, "");
    for (int c = 0; c < width; c++) putc('-', out);
    fprintf(out, "\n%*s1%*.0f   loss by step: * training%s\n", LABEL, "", width - 1, last,
            held_out->count ? ", o held out" : "");
}

void curve_draw(FILE *out, const char *metrics_path, int width) {
    FILE *file = fopen(metrics_path, "r");
    if (!file) return;
    struct points training = {0}, held_out = {0};
    read_points(file, &training, &held_out);
    fclose(file);
    width -= LABEL + 1;
    if (width < MIN_WIDTH) width = MIN_WIDTH;
    if (width > MAX_WIDTH) width = MAX_WIDTH;
    if (training.count >= 2) draw(out, &training, &held_out, width);
    free(training.steps);
    free(training.losses);
    free(held_out.steps);
    free(held_out.losses);
}
