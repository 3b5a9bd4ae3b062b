"""Sphinx's configuration of the site. `make site` stages the sources first: see nbs/lib/pipeline/115_site.ipynb."""
project = 'offline-slate-rl'
author = 'the offline-slate-rl authors'
copyright = '2026 the offline-slate-rl authors'

extensions = ['myst_nb', 'offline_slate_rl.pipeline.site']
myst_enable_extensions = ['attrs_inline', 'colon_fence', 'deflist', 'fieldlist']
myst_heading_anchors = 4
# Notebooks may begin a part with a smaller heading. A type named in two modules is not linked.
suppress_warnings = ['myst.header', 'misc.highlighting_failure', 'mystnb.unknown_mime_type', 'ref.python']
smartquotes = False            # quotation marks belong to code as often as to prose
nb_execution_mode = 'off'      # shown as they were committed
nb_ipywidgets_js = {}          # would be loaded from a network
nb_merge_streams = True

add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 70
toc_object_entries_show_parents = 'hide'

html_theme = 'furo'
html_title = 'offline-slate-rl'
html_static_path = ['_static']
html_css_files = ['site.css']
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    'light_css_variables': {'color-brand-primary': '#2b5c8a', 'color-brand-content': '#2b5c8a'},
    'dark_css_variables': {'color-brand-primary': '#8fbbe8', 'color-brand-content': '#8fbbe8'},
}
