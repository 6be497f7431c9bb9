/* GPT-2's byte alphabet: how a tokenizer.json spells bytes as characters. 21-7E, A1-AC and AE-FF are the character of
 * the same number, the other 68 bytes in ascending order U+0100, U+0101, ... (Radford et al., "Language models are
 * unsupervised multitask learners", 2019). */
#ifndef DEEPSEEK_TEXT_BYTE_ALPHABET_H
#define DEEPSEEK_TEXT_BYTE_ALPHABET_H

#include <stdbool.h>
#include <stdint.h>

#define BYTE_ALPHABET_END 0x144   /* one more than its largest character */

static inline bool byte_is_printable(int byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

static inline void byte_alphabet(uint32_t characters[256]) {
    uint32_t next = 0x100;
    for (int byte = 0; byte < 256; byte++) characters[byte] = byte_is_printable(byte) ? (uint32_t)byte : next++;
}

/* The reverse; -1 for a character that spells no byte. */
static inline void byte_alphabet_reverse(int16_t bytes[BYTE_ALPHABET_END]) {
    uint32_t characters[256];
    for (int i = 0; i < BYTE_ALPHABET_END; i++) bytes[i] = -1;
    byte_alphabet(characters);
    for (int byte = 0; byte < 256; byte++) bytes[characters[byte]] = (int16_t)byte;
}

#endif
