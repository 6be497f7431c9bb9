/* Phrasings of stories.h that many plots share: openings, feelings, thanks, time that passes, morals and endings. */
#include "text/stories.h"

const struct story_rule story_rules[] = {
    /* ---- openings: who there is ---- */
    { "little", "little|little|#trait|#trait|young|#trait little" },
    { "open", "Once upon a time, there was a &little @1.kind named @1. {@1.s lived #home.||}"
              "|Once upon a time, there was a &little @1.kind named @1 who lived #home."
              "|Once upon a time, a &little @1.kind named @1 lived #home."
              "|Once there was a &little @1.kind. @1.his name was @1."
              "|@1 was a &little @1.kind who lived #home."
              "|@1 was a &little @1.kind. {@1.s lived #home.|}"
              "|There once was a &little @1.kind named @1. {@1.s lived #home.|}"
              "|In a {little village|small town|white house} {by the sea|near the forest|between two hills|by a river} lived a &little @1.kind named @1." },
    { "open_animal", "Once upon a time, there was a &little @1.kind named @1. @1.s lived @1.home."
              "|Once upon a time, a &little @1.kind named @1 lived @1.home."
              "|Once upon a time, there was a &little @1.kind named @1 who lived @1.home."
              "|@1.name was a &little @1.kind who lived @1.home."
              "|Once there was a &little @1.kind named @1. {@1.his home was @1.home.|@1.s liked to @1.move and to eat @1.eats.|}"
              "|There once was a @1.kind named @1. @1.s lived @1.home and ate @1.eats." },
    { "open_two", "Once upon a time, there were two friends, @1 and @2."
              "|@1 and @2 were {good|best|old} friends.|Once upon a time, @1 and @2 were {best|good} friends. {They did everything together.|They lived on the same street.|}"
              "|@1 and @2 lived next door to each other. {They played together every day.|}|Once there were two friends, @1 and @2." },
    { "open_two_animals", "Once upon a time, @1.a named @1 and @2.a named @2 lived {side by side|in the same forest|by the same river|on the same hill}."
              "|Once upon a time, there were two neighbors, @1.a named @1 and @2.a named @2.|Once @1.a named @1 and @2.a named @2 {were friends|lived under the same tree}.|Long ago, @1.a named @1 and @2.a named @2 shared a {meadow|valley|forest}." },
    /* something rare, and what it is */
    { "wonder", "[w9=wonder]There was @w9.a. That is @w9.gloss.|[w9=wonder]There was even @w9.a, which is @w9.gloss.|[w9=wonder]@1 saw @w9.a. <1 ask:What is that?> It was @w9.gloss.|[w9=wonder]@1 saw @w9.a, which is @w9.gloss." },
    { "weather", "#Nice_weather.||" },

    /* ---- feelings ---- */
    { "is_happy", "@1.s @1.was #happy.|@1.s felt #happy.|@1.s smiled{ from ear to ear|}." },
    { "is_sad", "@1.s @1.was #sad.|@1.s felt #sad.|@1.s began to cry.|@1.s sat down and cried.|@1.s did not know what to do.|a tear ran down @1.p {cheek|nose}." },
    { "is_scared", "@1.s @1.was #scared.|@1.s felt #scared.|@1.p heart beat fast.|@1.p knees shook.|@1.s could not move." },
    { "is_angry", "@1.s @1.was #angry.|@1.s got #angry.|@1.s stamped @1.his foot.|@1.p face turned red." },
    { "is_tired", "@1.s @1.was #tired.|@1.s felt #tired.|@1.p legs were heavy." },
    { "is_sorry", "@1.s felt bad.|@1.s felt sorry.|@1.p stomach {hurt|felt like a stone}.|@1.s knew that @1.he had done something wrong.|@1.s could not {eat|sleep|play} because @1.he felt so bad." },

    /* ---- what people say to each other ---- */
    { "thanks", "<1 happy:Thank you{, @2.call||}!>|<1 happy:Thank you so much{, @2.call|}!>|<1 happy:Thank you! You are {very kind|a good friend|so kind}.>|@1 thanked @2 {again and again|with all @1.his heart|with a hug|}." },
    { "welcome", "<1 kind:You are welcome.>|<1 kind:I was glad to help.>|<1 kind:That is what friends are for.>||" },
    { "sorry", "<1 sorry:I am sorry{, @2.call||}.>|<1 sorry:I am so sorry. {I was wrong.|I will not do it again.|Please forgive me.}>|<1 sorry:It was my fault. I am sorry.>" },
    { "forgive", "<2 kind:It is all right. {Everyone makes mistakes.|I forgive you.|Let us fix it together.}>|<2 kind:I forgive you. {Thank you for telling me.|Let us be friends again.}>|<2 kind:Thank you for {saying so|being honest}. {I am not angry.|}>" },
    { "hello", "<1:Hello! {What is your name|Who are you}?>|<1:Hello! My name is @1.>|<1 happy:Hello there!>" },
    { "worry", "<1 kind:Do not {worry|be sad|cry}{, @2.call||}. {I will help you.|We will find a way.|I have an idea.}>" },
    { "how", "<1:What is wrong{, @2.call||}?>|<1:Why are you {sad|crying}{, @2.call||}?>|<1 kind:What happened{, @2.call||}?>" },
    { "idea", "then @1 had an idea.|@1 thought and thought. at last @1.he had an idea.|suddenly, @1 had {a good|a clever|an} idea.|@1 had a plan." },
    { "go_on", "@1.s tried again.|@1.s did not give up.|@1.s tried again and again.|@1.s tried once more." },

    /* ---- time that passes within a day, or over days ---- */
    { "soon", "Soon|After a while|A little later|Before long|Then" },
    { "next_day", "the next day|the next morning|the day after" },
    { "all_day", "all day|all afternoon|until the sun went down|until it was dark|for hours" },
    { "days_later", "a few days later|after a week|some days later|on #day|#number days later" },

    /* ---- endings ---- */
    { "end", "&is_happy(1)|&is_happy(1)|It was the best day ever.|&night(1)|And that was how it {all |}ended.|@1 never forgot that day." },
    { "night", "That night, @1 {slept well|slept like a stone|fell asleep with a smile|had a sweet dream|dreamed of {stars|the sea|ships|cake|flying}}." },
    { "end_two", "@1 and @2 laughed {together |}until {the stars came out|their sides hurt|it was time to go home}.|From that day on, @1 and @2 were {best friends|good friends|friends}.|@1 and @2 {were friends forever|stayed friends for a long time}."
              "|They played together every day after that.|After that, @1 and @2 did everything together.|@1 and @2 went home {hand in hand|side by side}. they were both #happy." },
    { "end_forest", "From that day on, @1 and @2 were friends.|@1 and @2 were friends for the rest of their lives.|They never {fought|quarreled} again.|That evening, they {ate|sat} together {under the moon|by the fire}.|And they lived {happily|in peace} ever after." },
    { "feast", "In the evening, everyone ate #food and #food.|They {all |}ate #tasty #food together.|There was #tasty #food for everyone.|They shared #food, #food and #fruit.ns." },

    /* ---- what one may learn, sometimes said and sometimes not ---- */
    { "learned", "@1 learned that|@1 now knew that|@1 understood that|That day, @1 learned that|@1 had learned that" },
    { "moral_share", "&learned(1) {sharing is fun|it is good to share|things are more fun when you share them|a thing that you share feels twice as good}.||" },
    { "moral_truth", "&learned(1) {it is always best to tell the truth|the truth is better than a lie|telling the truth makes your heart light|a lie only grows bigger}.||" },
    { "moral_try", "&learned(1) {you must try and try again|nobody is good at the start|practice makes you better|you should never give up|mistakes are a part of learning}.||" },
    { "moral_brave", "&learned(1) {being brave means to go on when you are afraid|many scary things are not so bad|it helps to look closely|being scared is all right}.||" },
    { "moral_kind", "&learned(1) {kindness always comes back|a small kind deed can be a big help|it is good to be kind|nobody is too small to help}.||" },
    { "moral_promise", "&learned(1) {a promise is a promise|you must keep your promises|others count on you when you promise something}.||" },
    { "moral_patience", "&learned(1) {good things take time|it is good to wait|patience is a kind of strength|some things cannot be hurried}.||" },
    { "moral_together", "&learned(1) {many hands make light work|together they could do anything|two heads are better than one|friends are stronger together}.||" },
    { "moral_proud", "&learned(1) {nobody likes a show-off|it is better to be kind than to be first|pride comes before a fall|everyone is good at something}.||" },
    { "moral_enough", "&learned(1) {enough is better than too much|greed brings nothing good|what you have is often what you need}.||" },
};
const int story_rule_count = (int)(sizeof story_rules / sizeof *story_rules);
