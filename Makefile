# make demo      the main job, shown on real processes
# make test      every test
# make bench     what it costs: ratios, and times for each descriptor
# make install   [DESTDIR=] [PREFIX=/usr/local] [LIBDIR=$(PREFIX)/lib]
CARGO   ?= cargo
PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
INSTALL ?= install
RELEASE  = $(or $(CARGO_TARGET_DIR),target)/release

.PHONY: all build setup demo test bench install
all: build

build:
	$(CARGO) build --release --locked

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
	$(CARGO) test --workspace --locked

bench: build
	$(CARGO) bench --locked --package ckptadv-tests --bench whole
	$(CARGO) bench --locked --package ckptadv-tests --bench hooks
	$(CARGO) bench --locked --package ckpt-image --bench engine
	$(CARGO) bench --locked --package cradvise --bench call

install: build
	$(INSTALL) -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(LIBDIR) \
	    $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man2 $(DESTDIR)$(PREFIX)/share/man/man8
	$(INSTALL) -m 755 $(RELEASE)/ckptadv $(DESTDIR)$(PREFIX)/bin/
	$(INSTALL) -m 644 $(RELEASE)/libckptadv.so $(DESTDIR)$(LIBDIR)/
	$(INSTALL) -m 644 man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	$(INSTALL) -m 644 man/*.2 $(DESTDIR)$(PREFIX)/share/man/man2/
	$(INSTALL) -m 644 man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	@# So that LD_PRELOAD finds the library by its bare name.
	[ -n "$(DESTDIR)" ] || ldconfig || true
