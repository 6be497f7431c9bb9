/* The keys of config.json that reading and writing share. The table stands in config.c. */
#ifndef DEEPSEEK_MODEL_CONFIG_KEYS_H
#define DEEPSEEK_MODEL_CONFIG_KEYS_H

#include "model/config.h"

/* Whose a key is: all models'; those with latent attention; of a generation with experts; with any routed experts, with
 * modules of multi-token prediction. */
enum key_part { OF_ALL, OF_LATENT, OF_EXPERTS, OF_ROUTED, OF_MODULES };
/* OTHER: not read by the table. */
enum key_type { KEY_OTHER, KEY_INTEGER, KEY_NUMBER, KEY_FLAG };
enum key_flags {
    KEY_REQUIRED = 1,
    KEY_TRAINS = 2,    /* not required of a training config */
    KEY_WRITTEN = 4,   /* also where it was not read: it has another default elsewhere, or none */
    KEY_SHAPE = 8,     /* decides the shapes of parameters */
};

struct config_key {
    const char *name;
    size_t offset;             /* in struct config, of an int64_t, a double or a bool */
    enum key_part part;
    enum key_type type;
    unsigned flags;
    int64_t minimum, maximum;  /* of integers; a value below the minimum means that there is none */
};
extern const struct config_key config_keys[];
extern const int config_key_count;

/* Does the model have what the key is about? */
bool config_key_applies(const struct config_key *key, const struct config *config);

#endif
