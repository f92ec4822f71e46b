# make demo      the main job, shown on real processes
# make test      every test
# make bench     what it costs: ratios, and times for each descriptor
# make install   what `make` has built: [DESTDIR=] [PREFIX=/usr/local] [LIBDIR=$(PREFIX)/lib]; a
#                LIBDIR elsewhere is given to `make`, too
# make uninstall the same, away
# make deb       Debian packages, in target/debian
CARGO    ?= cargo
PREFIX   ?= /usr/local
LIBDIR   ?= $(PREFIX)/lib
INSTALL  ?= install
LDCONFIG ?= ldconfig
RELEASE   = $(or $(CARGO_TARGET_DIR),target)/release
VERSION   = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

BIN       = $(PREFIX)/bin
INCLUDE   = $(PREFIX)/include
MAN       = $(PREFIX)/share/man
DOC       = $(PREFIX)/share/doc/ckptadv
BASH      = $(PREFIX)/share/bash-completion/completions
ZSH       = $(PREFIX)/share/zsh/site-functions
FISH      = $(PREFIX)/share/fish/vendor_completions.d

COMMANDS  = ckptadv ckptadv-oci
PAGES     = $(notdir $(wildcard man/*.[1-8]))
# Pages that describe calls of several names are found by each of them.
ALIASES   = cradvise_query.2=cradvise.2 cradvise_reset.2=cradvise.2 \
            cradvise_exec.3=cradvise.3 cradvise_restart.3=cradvise.3 cradvise_status.3=cradvise.3
DOCUMENTS = README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE

UNPUBLISHED = $(addprefix --exclude ,ckptadv-preload ckptadv-tests cradvise-c)

# Every file that is installed, for uninstall.
INSTALLED = $(addprefix $(BIN)/,$(COMMANDS)) \
            $(LIBDIR)/libckptadv.so $(LIBDIR)/libcradvise.so.0 $(LIBDIR)/libcradvise.so \
            $(LIBDIR)/libcradvise.a $(LIBDIR)/pkgconfig/cradvise.pc $(INCLUDE)/cradvise.h \
            $(foreach page,$(PAGES) $(foreach alias,$(ALIASES),$(firstword $(subst =, ,$(alias)))), \
                $(MAN)/man$(subst .,,$(suffix $(page)))/$(page)) \
            $(BASH)/ckptadv $(ZSH)/_ckptadv $(FISH)/ckptadv.fish \
            $(addprefix $(DOC)/,$(DOCUMENTS))

.PHONY: all build setup demo test bench deb install uninstall
all: build

# A LIBDIR that is not below the prefix the command must know: give it here, too.
build:
	$(if $(filter-out file,$(origin LIBDIR)),CKPTADV_LIBDIR=$(LIBDIR)) $(CARGO) build --release --locked

# What the demo and the tests need beside the product: a criu that works on this
# kernel, unpacked under target/, and a few packages where they are missing.
setup:
	tests/setup

demo: build setup
	$(CARGO) build --release --locked --quiet --package ckptadv-tests
	tests/demo

test: build setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked --quiet -- -D warnings
	tests/check-pages
	tests/check-packages $(UNPUBLISHED)
	$(CARGO) test --workspace --locked --no-fail-fast

bench: build
	$(CARGO) bench --locked --package ckptadv-tests --bench whole
	$(CARGO) bench --locked --package ckptadv-tests --bench criu
	$(CARGO) bench --locked --package ckptadv-tests --bench hooks
	$(CARGO) bench --locked --package ckpt-image --bench engine --bench criu
	$(CARGO) bench --locked --package cradvise --bench call

deb: build
	packaging/deb $(dir $(RELEASE))debian

# Builds nothing: root need not have a compiler.
install:
	@[ -e $(RELEASE)/ckptadv ] || { echo "make install: nothing is built yet: run make" >&2; exit 1; }
	$(INSTALL) -d $(addprefix $(DESTDIR),$(sort $(dir $(INSTALLED))))
	for command in $(COMMANDS); do \
	    $(INSTALL) -m 755 $(RELEASE)/$$command $(DESTDIR)$(BIN)/ || exit; \
	done
	$(INSTALL) -m 644 $(RELEASE)/libckptadv.so $(DESTDIR)$(LIBDIR)/
	$(INSTALL) -m 644 $(RELEASE)/libcradvise.so $(DESTDIR)$(LIBDIR)/libcradvise.so.0
	ln -sf libcradvise.so.0 $(DESTDIR)$(LIBDIR)/libcradvise.so
	shim/c/one-object $(RELEASE)/libcradvise.a $(DESTDIR)$(LIBDIR)/libcradvise.a
	sed -e 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@VERSION@|$(VERSION)|' \
	    shim/c/cradvise.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/cradvise.pc
	$(INSTALL) -m 644 shim/include/cradvise.h $(DESTDIR)$(INCLUDE)/
	for page in $(PAGES); do \
	    $(INSTALL) -m 644 man/$$page $(DESTDIR)$(MAN)/man$${page##*.}/ || exit; \
	done
	for alias in $(ALIASES); do \
	    name=$${alias%=*}; ln -sf $${alias#*=} $(DESTDIR)$(MAN)/man$${name##*.}/$$name || exit; \
	done
	$(INSTALL) -m 644 completions/ckptadv.bash $(DESTDIR)$(BASH)/ckptadv
	$(INSTALL) -m 644 completions/_ckptadv $(DESTDIR)$(ZSH)/
	$(INSTALL) -m 644 completions/ckptadv.fish $(DESTDIR)$(FISH)/
	$(INSTALL) -m 644 $(DOCUMENTS) $(DESTDIR)$(DOC)/
	@# So that the loader finds the libraries by their bare names.
	[ -n "$(DESTDIR)" ] || $(LDCONFIG) || true

uninstall:
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))
	rmdir $(DESTDIR)$(DOC) || true
	[ -n "$(DESTDIR)" ] || $(LDCONFIG) || true
