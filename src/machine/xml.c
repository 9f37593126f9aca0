// SPDX-License-Identifier: Apache-2.0
// XML by libxml2, made safe for files from anywhere: nothing is fetched, a DOCTYPE ends
// the parse before any entity is declared (so none can expand), depth and lengths keep
// libxml2's own limits (no XML_PARSE_HUGE).
#include "machine/xml.h"

#include <libxml/parser.h>

struct xml {
    xmlDoc *doc;
};

static void refuse_doctype(void *context, const xmlChar *name, const xmlChar *external,
                           const xmlChar *system)
{
    xmlParserCtxt *ctxt = context;
    bool *seen = ctxt->_private;
    (void)name, (void)external, (void)system;
    *seen = true;
    xmlStopParser(ctxt);
}

// Some errors of character sets go past the parser's flags to stderr.
static void be_quiet(void *context, xmlError *error)
{
    (void)context, (void)error;
}

static void discard_parser(xmlParserCtxt *ctxt)
{
    if (ctxt)
        xmlFreeParserCtxt(ctxt);
}
DEFINE_AUTO(discard_parser, xmlParserCtxt *)

int xml_open(const char *text, size_t len, const char *what, struct xml **ret,
             struct err *e)
{
    if (len > MIB * 16)
        return err_set(e, ERR_REFUSED, "%s: more than 16 MiB of XML", what);
    AUTO(discard_parser) xmlParserCtxt *ctxt = xmlNewParserCtxt();
    if (!ctxt)
        return err_set(e, ERR_FAILED, "%s: no memory for the XML parser", what);
    bool doctype = false;
    ctxt->_private = &doctype;
    ctxt->sax->internalSubset = refuse_doctype;
    xmlSetStructuredErrorFunc(NULL, be_quiet);
    xmlDoc *doc = xmlCtxtReadMemory(ctxt, text, (int)len, NULL, NULL,
                                    XML_PARSE_NONET | XML_PARSE_NOERROR |
                                        XML_PARSE_NOWARNING | XML_PARSE_NOCDATA);
    xmlSetStructuredErrorFunc(NULL, NULL);
    if (doctype) {
        if (doc)
            xmlFreeDoc(doc);
        return err_set(e, ERR_REFUSED,
                       "%s: has a document type declaration, which no description needs",
                       what);
    }
    if (!doc) {
        const xmlError *x = xmlCtxtGetLastError(ctxt);
        char *message = xstrdup(x && x->message ? x->message : "not well-formed");
        int line = x ? x->line : 0;
        err_set(e, ERR_REFUSED, "%s: not XML: line %d: %s", what, line,
                str_trim(message));
        free(message);
        return -1;
    }
    struct xml *xml = xcalloc(1, sizeof(*xml));
    xml->doc = doc;
    *ret = xml;
    return 0;
}

const xmlNode *xml_root(const struct xml *x)
{
    return xmlDocGetRootElement(x->doc);
}

void xml_close(struct xml *x)
{
    if (!x)
        return;
    xmlFreeDoc(x->doc);
    free(x);
}

bool xml_is(const xmlNode *node, const char *name)
{
    return node && node->type == XML_ELEMENT_NODE &&
           (!name || strcmp((const char *)node->name, name) == 0);
}

static const xmlNode *from(const xmlNode *node, const char *name)
{
    while (node && !xml_is(node, name))
        node = node->next;
    return node;
}

const xmlNode *xml_child(const xmlNode *node, const char *name)
{
    return node ? from(node->children, name) : NULL;
}

const xmlNode *xml_next(const xmlNode *node, const char *name)
{
    return node ? from(node->next, name) : NULL;
}

// Takes libxml2's string, gives one that free() takes.
static char *own(xmlChar *s)
{
    if (!s)
        return NULL;
    char *copy = xstrdup(str_trim((char *)s));
    xmlFree(s);
    return copy;
}

char *xml_text(const xmlNode *node)
{
    return node ? own(xmlNodeGetContent(node)) : NULL;
}

char *xml_attr(const xmlNode *node, const char *name)
{
    if (!xml_is(node, NULL))
        return NULL;
    for (const xmlAttr *a = node->properties; a; a = a->next)
        if (strcmp((const char *)a->name, name) == 0)
            return own(xmlNodeGetContent((const xmlNode *)a));
    return NULL;
}

char *xml_child_text(const xmlNode *node, const char *name)
{
    return xml_text(xml_child(node, name));
}

char *xml_child_attr(const xmlNode *node, const char *child, const char *name)
{
    return xml_attr(xml_child(node, child), name);
}

bool xml_attr_is(const xmlNode *node, const char *name, const char *value)
{
    AUTO(str_free) char *got = xml_attr(node, name);
    return got && strcmp(got, value) == 0;
}

// Past what may stand before the root element; NULL: something else is there.
static const char *skip_prolog(const char *p, const char *end)
{
    static const struct {
        const char *open, *close;
    } parts[] = {{"<?", "?>"}, {"<!--", "-->"}};
    if (end - p >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0)
        p += 3;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        while (p < end && strchr(" \t\r\n", *p) && *p)
            p++;
        size_t n = strlen(parts[i].open);
        if ((size_t)(end - p) < n || memcmp(p, parts[i].open, n) != 0)
            continue;
        const char *close =
            memmem(p, (size_t)(end - p), parts[i].close, strlen(parts[i].close));
        if (!close)
            return NULL;
        p = close + strlen(parts[i].close);
        i = (size_t)-1; // any number of them, in any order
    }
    return p < end && *p == '<' ? p + 1 : NULL;
}

bool xml_root_is(const char *text, size_t len, const char *name)
{
    const char *end = text + len, *p = skip_prolog(text, end);
    if (!p)
        return false;
    const char *start = p;
    while (p < end && *p && !strchr(" \t\r\n/>", *p)) {
        if (*p == ':')
            start = p + 1;
        p++;
    }
    return (size_t)(p - start) == strlen(name) && memcmp(start, name, strlen(name)) == 0;
}
