# SPDX-License-Identifier: GPL-2.0-only
# Installation: an environment under PREFIX, man pages, completion files, units, udev rule, user and configuration.
# Nothing is written into the checkout, so that none of it belongs to root afterwards.

DESTDIR    ?=
PREFIX     ?= /opt/bcached
BINDIR     ?= /usr/local/bin
SHAREDIR   ?= /usr/local/share
UNITDIR    ?= /usr/local/lib/systemd/system
UDEVDIR    ?= /etc/udev/rules.d
USERSDIR   ?= /etc/sysusers.d
CONFDIR    ?= /etc/bcached

HERE       := $(DESTDIR)$(PREFIX)
DOCUMENTS  := README.md DESIGN.md SECURITY.md CHANGELOG.md LICENSE LICENSES/GPL-2.0-only.txt LICENSES/MIT.txt \
              systemd/block-device.conf
SOURCES    := bcached pyproject.toml README.md LICENSE LICENSES
UNITS      := $(wildcard systemd/*.service systemd/*.socket systemd/*.target)
SHARED     := man/man8/bcached.8 man/man8/bcachectl.8 man/man5/bcached.toml.5 \
              bash-completion/completions/bcachectl zsh/site-functions/_bcachectl \
              fish/vendor_completions.d/bcachectl.fish

# Whether all that is at PREFIX are the parts of an environment: only such a folder is replaced or removed.
IS_OURS    := test -e $(HERE)/pyvenv.cfg -a -e $(HERE)/bin/bcached \
              && ! ls -A $(HERE) | grep -qvxE 'bin|include|lib|lib64|pyvenv.cfg|share'

# The present environment is left as it is until the new one, beside it, is complete: programs that run continue, and an
# install that fails changes nothing. An existing configuration is left as it is.
.PHONY: install uninstall
.SILENT: install uninstall
install:
	test -e $(HERE) -o ! -e $(HERE).old || mv -T $(HERE).old $(HERE)  # an install was interrupted there
	test ! -e $(HERE) -o -z "$$(ls -A $(HERE) 2>&1)" || { $(IS_OURS); } || { \
		echo "$(HERE): not made by make install; remove it, or choose another PREFIX" >&2; exit 1; }
	rm -rf $(HERE).new $(HERE).old
	$(PYTHON) -m venv $(HERE).new
	set -e; build=$$(mktemp -d); trap 'rm -rf "$$build"' EXIT; \
	cp -R $(SOURCES) "$$build"; \
	$(HERE).new/bin/pip install -q --disable-pip-version-check --no-compile -c constraints.txt "$$build"
	rm -f $(HERE).new/lib/python*/site-packages/bcached-*.dist-info/direct_url.json
	PYTHONDONTWRITEBYTECODE=1 $(HERE).new/bin/python -m manual $(HERE).new/share
	$(HERE).new/bin/python -m compileall -q -s "$(HERE).new" -p "$(PREFIX)" $(HERE).new/lib
	grep -lIrF "$(HERE).new" $(HERE).new/bin $(HERE).new/pyvenv.cfg | xargs -r sed -i "s|$(HERE).new|$(PREFIX)|g"
	install -D -m 0644 -t $(HERE).new/share/doc/bcached $(DOCUMENTS)
	install -D -m 0644 -t $(HERE).new/share/doc/bcached/docs docs/*
	install -D -m 0644 -t $(HERE).new/share/doc/bcached/monitoring monitoring/*
	test ! -e $(HERE) || mv -T $(HERE) $(HERE).old
	mv -T $(HERE).new $(HERE) || { test ! -e $(HERE).old || mv -T $(HERE).old $(HERE); exit 1; }
	rm -rf $(HERE).old
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(CONFDIR)/conf.d
	ln -sf $(PREFIX)/bin/bcached $(PREFIX)/bin/bcachectl $(DESTDIR)$(BINDIR)/
	for file in $(SHARED); do install -D -m 0644 $(HERE)/share/$$file $(DESTDIR)$(SHAREDIR)/$$file; done
	for unit in $(UNITS); do \
		sed "s|/opt/bcached|$(PREFIX)|g" $$unit > $(DESTDIR)$(UNITDIR)/$${unit##*/}; done
	install -D -m 0644 -t $(DESTDIR)$(UDEVDIR) systemd/68-bcached.rules
	install -D -m 0644 -t $(DESTDIR)$(USERSDIR) systemd/sysusers.d/bcached.conf
	test -e $(DESTDIR)$(CONFDIR)/bcached.toml || install -m 0644 config/bcached.toml $(DESTDIR)$(CONFDIR)/
	sed -n 's/^__version__ = "\(.*\)"/bcached \1 is installed in $(subst /,\/,$(HERE)). README, "As a service", goes on from here./p' \
		bcached/__init__.py

# All of that but the configuration, the user and the images, which may be needed again.
uninstall:
	test ! -e $(HERE) || { $(IS_OURS); } || { \
		echo "$(HERE): not made by make install; it is left as it is" >&2; exit 1; }
	rm -rf $(HERE) $(HERE).new $(HERE).old
	for program in bcached bcachectl; do \
		test "$$(readlink $(DESTDIR)$(BINDIR)/$$program)" != $(PREFIX)/bin/$$program \
		|| rm $(DESTDIR)$(BINDIR)/$$program; done
	rm -f $(addprefix $(DESTDIR)$(SHAREDIR)/,$(SHARED)) $(addprefix $(DESTDIR)$(UNITDIR)/,$(notdir $(UNITS)))
	rm -f $(DESTDIR)$(UDEVDIR)/68-bcached.rules $(DESTDIR)$(USERSDIR)/bcached.conf
	echo "Left as they are: $(DESTDIR)$(CONFDIR), the user bcached, and /var/lib/bcached"
