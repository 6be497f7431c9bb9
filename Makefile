# deepseek.c: `make` builds ./deepseek and build/libdeepseek.{a,so}; `make help` lists the targets.
#
#   BUILD=DIR     where everything that is built goes (default: build; elsewhere the program becomes DIR/deepseek)
#   CC=clang      another compiler (gcc and clang are tested)
#   WERROR=1      warnings are errors (make test sets it)
#   V=1           print whole commands
#   CFLAGS=...    optimisation and debug flags (default: -O3 -g)
#   T=PART        only tests with PART in their path, as in `make test T=base/`; make bench T=mla: that section of bench/run.sh
#
# Nothing here needs a compiler while the file is being read, because `make test` and `make demo` install one first.

BUILD ?= build
FUZZ_SECONDS ?= 60
CFLAGS ?= -O3 -g
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif

# Use every processor unless the caller says how many. Sub-makes inherit both settings.
ifeq ($(MAKELEVEL),0)
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif
MAKEFLAGS += --output-sync=target
endif
MAKEFLAGS += --no-builtin-rules --no-print-directory
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

# ---- Sources ---------------------------------------------------------------------------------------------------------

folders     := base io kernels graph model text train infer serve api
sources     := $(sort $(foreach folder,$(folders),$(wildcard src/$(folder)/*.c)))
cli_sources := $(sort $(wildcard src/cli/*.c))
tests       := $(sort $(wildcard tests/*/test_*.c))
ifneq ($(T),)
tests       := $(foreach test,$(tests),$(if $(findstring $(T),$(test)),$(test)))
endif
benches     := $(sort $(wildcard bench/*.c))
# Comparisons with oneDNN are built only where it is installed; they use its threads, those of OpenMP.
ifneq ($(wildcard /usr/include/dnnl.h /usr/local/include/dnnl.h),)
peer_benches := $(sort $(wildcard bench/*_onednn.cpp))
endif

objects        := $(sources:%.c=$(BUILD)/%.o)
cli_objects    := $(cli_sources:%.c=$(BUILD)/%.o)
test_programs  := $(tests:%.c=$(BUILD)/%)
bench_programs := $(benches:%.c=$(BUILD)/%) $(peer_benches:%.cpp=$(BUILD)/%)
fuzz_programs  := $(patsubst %.c,$(BUILD)/%,$(foreach test,$(sort $(wildcard tests/fuzz/fuzz_*.c)),$(if $(findstring $(T),$(test))$(if $(T),,all),$(test))))
program        := $(if $(filter build,$(BUILD)),deepseek,$(BUILD)/deepseek)
library        := $(BUILD)/libdeepseek.a
shared_library := $(BUILD)/libdeepseek.so
public_library := $(BUILD)/install/libdeepseek.a

# The version stands in the header alone. Its first number is the shared library's.
version = $(shell sed -n 's/^.define DS_VERSION_STRING "\(.*\)"/\1/p' include/deepseek.h)
soname  = libdeepseek.so.$(firstword $(subst ., ,$(version)))

# ---- Flags -----------------------------------------------------------------------------------------------------------

warnings := -Wall -Wextra -Wshadow -Wvla
# -ffp-contract=off: the compiler must not fuse a multiplication and an addition on one machine and not on another.
common := -D_GNU_SOURCE -Isrc -Iinclude -ffp-contract=off -fPIC -fno-semantic-interposition -pthread $(warnings)
ifneq ($(SANITIZE),)
common += -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
c_flags   := -std=c17 $(common) -Wmissing-prototypes $(CFLAGS)
cxx_flags := -std=c++17 $(common) $(CFLAGS)
# Kept out of the two above, so that turning it on does not rebuild everything.
werror    := $(if $(filter-out 0,$(WERROR)),-Werror)
libraries := -ljansson -lxxhash -lm -pthread
# Of the program alone: the line editor of chat.
program_libraries := -ledit $(libraries)

# A file's suffix names the instructions it may use; each variant is chosen at run time (src/base/cpu.c).
# Elsewhere than on x86-64 these files compile to nothing.
target := $(shell $(CC) -dumpmachine 2>/dev/null || uname -m)
ifneq ($(filter x86_64%,$(target)),)
flags_avx2       := -mavx2 -mfma -mf16c
flags_avx512     := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mfma -mf16c
flags_avx512bf16 := $(flags_avx512) -mavx512bf16
flags_amx        := $(flags_avx512bf16) -mamx-tile -mamx-bf16
endif
isa_flags = $(flags_$(lastword $(subst _, ,$(basename $(notdir $<)))))

# ---- Building --------------------------------------------------------------------------------------------------------

# What is printed for a command: its kind and what it makes.
quiet := $(if $(filter 1,$(V)),,@)
say = $(if $(quiet),@echo '  $(1) $(2)')

.PHONY: all tests-build run-tests test test-long asan tsan fuzz fuzz-build run-fuzz bench bench-build demo install uninstall clean help
all: $(library) $(if $(SANITIZE),,$(shared_library)) $(if $(cli_sources),$(program))
tests-build: all $(test_programs)
bench-build: all $(bench_programs)

# What a build needs, checked once per build folder with a message that says what to install.
$(BUILD)/checked: tools/check-packages.sh
	@mkdir -p $(@D)
	@CC='$(CC)' tools/check-packages.sh
	@touch $@

# Everything is rebuilt when the compiler or the flags change.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(c_flags) $(flags_amx)' | cmp -s - $@ || echo '$(CC) $(c_flags) $(flags_amx)' >$@
.PHONY: FORCE
FORCE:

$(BUILD)/%.o: %.c $(BUILD)/flags | $(BUILD)/checked
	@mkdir -p $(@D)
	$(call say,CC  ,$<)
	$(quiet)$(CC) $(c_flags) $(werror) $(isa_flags) -MMD -MP -c $< -o $@

$(BUILD)/%.o: %.cpp $(BUILD)/flags | $(BUILD)/checked
	@mkdir -p $(@D)
	$(call say,CXX ,$<)
	$(quiet)$(CXX) $(cxx_flags) -fopenmp $(werror) -MMD -MP -c $< -o $@

# clang takes minutes to instrument the unrolled loops of the kernels for addresses: there (fuzzers, make asan CC=clang) they stay plain. gcc does instrument them.
ifneq ($(and $(findstring clang,$(CC)),$(findstring address,$(SANITIZE))),)
$(BUILD)/src/kernels/%.o: c_flags := $(filter-out -fsanitize=%,$(c_flags))
endif

# The list of objects, so that the libraries are made anew when a source is removed.
$(BUILD)/objects: FORCE
	@mkdir -p $(@D)
	@echo '$(objects)' | cmp -s - $@ || echo '$(objects)' >$@

$(library): $(objects) $(BUILD)/objects
	$(call say,AR  ,$@)
	@rm -f $@
	$(quiet)ar rcs $@ $(objects)

# Outside of the library only the names of include/deepseek.h are seen.
$(shared_library): $(objects) $(BUILD)/objects src/api/exports.map include/deepseek.h
	$(call say,LINK,$@)
	$(quiet)$(CC) $(c_flags) -shared -Wl,-soname,$(soname) -Wl,--version-script=src/api/exports.map $(objects) -o $@ $(libraries)

# The same for the static library that is installed: one object, whose inner names are local and collide with nobody's.
$(public_library): $(objects) $(BUILD)/objects
	@mkdir -p $(@D)
	$(call say,AR  ,$@)
	@rm -f $@
	$(quiet)$(CC) -r -nostdlib $(objects) -o $(@D)/deepseek.o
	$(quiet)objcopy --wildcard --keep-global-symbol='ds_*' $(@D)/deepseek.o
	$(quiet)ar rcs $@ $(@D)/deepseek.o
	@rm -f $(@D)/deepseek.o

$(program): $(cli_objects) $(library)
	$(call say,LINK,$@)
	$(quiet)$(CC) $(c_flags) $(cli_objects) $(library) -o $@ $(program_libraries)

$(test_programs): $(BUILD)/%: $(BUILD)/%.o $(library)
	$(call say,LINK,$@)
	$(quiet)$(CC) $(c_flags) $< $(library) -o $@ -lcmocka $(libraries)

$(benches:%.c=$(BUILD)/%): $(BUILD)/%: $(BUILD)/%.o $(library)
	$(call say,LINK,$@)
	$(quiet)$(CC) $(c_flags) $< $(library) -o $@ $(libraries)

$(peer_benches:%.cpp=$(BUILD)/%): $(BUILD)/%: $(BUILD)/%.o $(library)
	$(call say,LINK,$@)
	$(quiet)$(CXX) $(cxx_flags) -fopenmp $< $(library) -o $@ -ldnnl $(libraries)

# Linked only by the run that `make fuzz` starts: they need clang and its -fsanitize=fuzzer.
$(fuzz_programs): $(BUILD)/%: $(BUILD)/%.o $(library)
	$(call say,LINK,$@)
	$(quiet)$(CC) $(c_flags) -fsanitize=fuzzer $< $(library) -o $@ $(libraries)

.SECONDARY:   # keep the objects of tests and benches
-include $(patsubst %.o,%.d,$(objects) $(cli_objects) $(test_programs:%=%.o) $(bench_programs:%=%.o) $(fuzz_programs:%=%.o))

# ---- Targets for people ----------------------------------------------------------------------------------------------

# The tests run in a make of their own without output-sync, so that their lines appear as they come.
test:
	@tools/install-packages.sh
	@$(MAKE) WERROR=1 tests-build
	@$(MAKE) --output-sync=none run-tests

test-long:
	@tools/install-packages.sh
	@$(MAKE) WERROR=1 tests-build
	@$(MAKE) --output-sync=none TEST_LONG=1 run-tests

run-tests:
	@BUILD='$(BUILD)' DEEPSEEK='$(program)' CC='$(CC)' CFLAGS='$(CFLAGS)' TEST_LONG='$(TEST_LONG)' TEST_ONLY='$(TEST_ONLY)' tests/run.sh $(T)

# The test programs alone under the sanitizers; scripts test the command line, which takes too long there.
asan:
	@tools/install-packages.sh
	@$(MAKE) BUILD='$(BUILD)/asan' SANITIZE=address,undefined CFLAGS='-O1 -g' tests-build
	@UBSAN_OPTIONS=print_stacktrace=1 $(MAKE) --output-sync=none BUILD='$(BUILD)/asan' SANITIZE=address,undefined \
	    CFLAGS='-O1 -g' TEST_ONLY=programs run-tests

tsan:
	@tools/install-packages.sh
	@$(MAKE) BUILD='$(BUILD)/tsan' SANITIZE=thread CFLAGS='-O1 -g' tests-build
	@$(MAKE) --output-sync=none BUILD='$(BUILD)/tsan' SANITIZE=thread CFLAGS='-O1 -g' TEST_ONLY=programs run-tests

# Every tests/fuzz/fuzz_NAME.c for FUZZ_SECONDS, from its committed corpus on; what it finds is left under BUILD.
fuzz:
	@$(MAKE) CC=clang BUILD='$(BUILD)/fuzz' SANITIZE=address,undefined CFLAGS='-O1 -g -fsanitize=fuzzer-no-link' fuzz-build
	@$(MAKE) CC=clang BUILD='$(BUILD)/fuzz' SANITIZE=address,undefined CFLAGS='-O1 -g -fsanitize=fuzzer-no-link' --output-sync=none run-fuzz

fuzz-build: $(fuzz_programs)

run-fuzz:
	@for program in $(fuzz_programs); do \
	    name=$${program##*/fuzz_}; \
	    mkdir -p "$(BUILD)/found/$$name"; \
	    echo "fuzz  $$name for $(FUZZ_SECONDS) s"; \
	    "$$program" -max_total_time=$(FUZZ_SECONDS) -timeout=10 -artifact_prefix="$(BUILD)/" -print_final_stats=1 \
	        "$(BUILD)/found/$$name" "tests/fuzz/corpus/$$name" || exit 1; \
	done

bench:
	@$(MAKE) bench-build
	@+$(if $(wildcard bench/run.sh),BUILD='$(BUILD)' DEEPSEEK='$(program)' bench/run.sh $(T),echo 'bench: nothing to run')

demo:
	@tools/install-packages.sh
	@$(MAKE) all
	@+BUILD='$(BUILD)' DEEPSEEK='$(program)' tools/demo.sh

# Where `make install` puts things; DESTDIR goes in front of all of them and into none of the files.
PREFIX     ?= /usr/local
bindir     ?= $(PREFIX)/bin
libdir     ?= $(PREFIX)/lib
includedir ?= $(PREFIX)/include
datadir    ?= $(PREFIX)/share
mandir     ?= $(datadir)/man
install_to  = DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' BINDIR='$(bindir)' LIBDIR='$(libdir)' INCLUDEDIR='$(includedir)' DATADIR='$(datadir)' MANDIR='$(mandir)' VERSION='$(version)' SONAME='$(soname)'

install: all $(public_library)
	@$(install_to) PROGRAM='$(program)' STATIC='$(public_library)' SHARED='$(shared_library)' tools/install-files.sh

uninstall:
	@$(install_to) tools/install-files.sh --remove

clean:
	rm -rf $(BUILD) $(program)

help:
	@echo 'make            ./deepseek, build/libdeepseek.a and build/libdeepseek.so'
	@echo 'make demo       train a small model and let it write (installs missing packages)'
	@echo 'make test       build with warnings as errors and run every test (installs missing packages)'
	@echo 'make test-long  the same with the long sweeps'
	@echo 'make asan       the test programs under the address and undefined-behaviour sanitizers'
	@echo 'make tsan       the test programs under the thread sanitizer'
	@echo 'make fuzz       each fuzz target for FUZZ_SECONDS (default: 60), with clang'
	@echo 'make bench      the benchmarks'
	@echo 'make install    program, libraries, header, manual pages and completion into PREFIX (/usr/local), below DESTDIR'
	@echo 'make uninstall  remove them'
	@echo 'make clean      remove what was built'
	@echo 'Variables: BUILD=DIR  CC=gcc|clang  CFLAGS=...  WERROR=1  V=1  T=PART (only tests with PART in their path; of make bench: a section)'
