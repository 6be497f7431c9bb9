/* The parts of `deepseek tokenize` (tokenize.c, tokenize_train.c). */
#ifndef DEEPSEEK_CLI_TOKENIZE_H
#define DEEPSEEK_CLI_TOKENIZE_H

#include "cli/cli.h"

int command_tokenize_train(int argc, char **argv);

#endif
