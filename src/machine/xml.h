// SPDX-License-Identifier: Apache-2.0
// XML of descriptions: libxml2 without network, without entities, by local names (an OVF
// is recognised whatever prefix or version of the namespace it uses). For the readers
// here and for the answers of platforms that speak XML.
#pragma once

#include "base/base.h"
#include <libxml/tree.h>

struct xml;
// A document with a DOCTYPE is ERR_REFUSED: no description needs one. `what` names it.
int xml_open(const char *text, size_t len, const char *what, struct xml **ret,
             struct err *e);
const xmlNode *xml_root(const struct xml *x);
void xml_close(struct xml *x);
DEFINE_AUTO(xml_close, struct xml *)

// Is the root element of this text called `name` (seen without a parse, for readers'
// `is`)?
bool xml_root_is(const char *text, size_t len, const char *name);

bool xml_is(const xmlNode *node, const char *name); // NULL node: false
// The first child element, and the next sibling, of that local name (NULL: any); NULL:
// none.
const xmlNode *xml_child(const xmlNode *node, const char *name);
const xmlNode *xml_next(const xmlNode *node, const char *name);
#define xml_each(item, parent, name) \
    for (const xmlNode *item = xml_child(parent, name); item; item = xml_next(item, name))
// Trimmed text of an element, value of an attribute; NULL: not there. free() them.
char *xml_text(const xmlNode *node);
char *xml_attr(const xmlNode *node, const char *name);
char *xml_child_text(const xmlNode *node, const char *name);
char *xml_child_attr(const xmlNode *node, const char *child, const char *name);
bool xml_attr_is(const xmlNode *node, const char *name, const char *value);
