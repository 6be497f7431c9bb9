/* The loss curve of a run, drawn in characters from its metrics.jsonl (curve.c). */
#ifndef DEEPSEEK_CLI_CURVE_H
#define DEEPSEEK_CLI_CURVE_H

#include <stdio.h>

/* Nothing is drawn where the file cannot be read or holds fewer than two steps. */
void curve_draw(FILE *out, const char *metrics_path, int width);

#endif
