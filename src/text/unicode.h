/* Character classes of Unicode 16.0 as the reference tokenizer sees them. */
#ifndef DEEPSEEK_TEXT_UNICODE_H
#define DEEPSEEK_TEXT_UNICODE_H

#include <stdint.h>

enum {
    UNICODE_LETTER = 1,        /* \p{L} */
    UNICODE_MARK = 2,          /* \p{M} */
    UNICODE_NUMBER = 4,        /* \p{N} */
    UNICODE_PUNCTUATION = 8,   /* \p{P} */
    UNICODE_SYMBOL = 16,       /* \p{S} */
    UNICODE_SPACE = 32,        /* \s: White_Space */
    UNICODE_DIGIT = 64,        /* the Digits step of V1 and V2: Nd, Nl, No of Unicode 17.0 */
    UNICODE_WORD = 128,        /* what may not stand next to a `single_word` token */
    /* Sets that patterns of DeepSeek's files spell out (spec/formats.md sections 2.3 and 2.4). */
    UNICODE_LINE_END = 256,         /* [\r\n] */
    UNICODE_V1_LETTER = 512,        /* V1 step 2 */
    UNICODE_V1_PUNCTUATION = 1024,  /* V1 step 3; many letters too */
    UNICODE_V1_CJK = 2048,          /* V1 step 5 */
    UNICODE_V3_CJK = 4096,          /* V3 step 2 */
};

/* block of 128 characters -> row of unicode_classes; row 0 is ASCII. Nobody writes to them once main() has begun. */
extern uint8_t unicode_block_of[0x110000 >> 7];
extern uint16_t unicode_classes[256][128];

/* The classes of a character up to U+10FFFF, as a set of the bits above. */
static inline unsigned unicode_class(uint32_t character) {
    return unicode_classes[unicode_block_of[character >> 7]][character & 127];
}

#endif
