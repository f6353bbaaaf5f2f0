// What the pages of aurl do beside being read: figures, the search's excerpts, a sidebar whose groups fold. No network.
(function () {
  'use strict';
  const ready = f => document.readyState === 'loading' ? document.addEventListener('DOMContentLoaded', f) : f();

  // ---- plotly figures, one library for all of them
  function figures() {
    if (!window.Plotly) return;
    document.querySelectorAll('.plotly-figure').forEach(div => {
      const s = div.querySelector('script[type="application/json"]');
      if (!s) return;
      const fig = JSON.parse(s.textContent);
      s.remove();
      const layout = Object.assign({ autosize: true }, fig.layout);
      if (layout.width && layout.width > div.clientWidth) delete layout.width;
      window.Plotly.newPlot(div, fig.data, layout, Object.assign({ responsive: true, displaylogo: false }, fig.config));
    });
  }

  // ---- groups of the sidebar fold; the one with the current page is open
  function sidebar() {
    const tree = document.querySelector('.sidebar-tree');
    if (!tree) return;
    const key = 'aurl-folded';
    let folded = {};
    try { folded = JSON.parse(sessionStorage.getItem(key) || '{}'); } catch (e) { }
    tree.querySelectorAll('p.caption').forEach(p => {
      const ul = p.nextElementSibling, name = p.textContent.trim();
      if (!ul || ul.tagName !== 'UL') return;
      const set = shut => { ul.hidden = shut; p.setAttribute('aria-expanded', String(!shut)); };
      p.setAttribute('role', 'button');
      p.tabIndex = 0;
      const toggle = () => {
        set(!ul.hidden);
        folded[name] = ul.hidden;
        try { sessionStorage.setItem(key, JSON.stringify(folded)); } catch (e) { }
      };
      p.addEventListener('click', toggle);
      p.addEventListener('keydown', e => { if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); toggle(); } });
      set(!!folded[name] && !ul.querySelector('.current'));
    });
    const here = tree.querySelector('li.current'), box = document.querySelector('.sidebar-scroll');
    if (here && box) {
      const r = here.getBoundingClientRect(), b = box.getBoundingClientRect();
      if (r.bottom > b.bottom || r.top < b.top) box.scrollTop += r.top - b.top - b.height / 3;
    }
  }

  // ---- excerpts under the results of the search
  function excerpts() {
    const box = document.getElementById('search-results');
    if (!box || !window.aurlExcerpts) return;
    const query = new URLSearchParams(location.search).get('q') || '';
    const words = query.toLowerCase().split(/\s+/).filter(w => w.length > 1);
    const root = document.documentElement.dataset.content_root || './';
    const base = new URL(root, location.href).href;
    const add = li => {
      const a = li.querySelector('a');
      if (!a || li.querySelector('.excerpt')) return;
      const [file, hash] = decodeURI(a.href.slice(base.length)).replace(/\?[^#]*/, '').split('#');
      const doc = file.replace(/\.html$/, ''), box = window.aurlExcerpts[doc + '#' + hash];
      const text = box || window.aurlExcerpts[doc];
      if (!text) return;
      const low = text.toLowerCase();
      const at = words.map(w => low.indexOf(w)).filter(i => i >= 0);
      const mid = at.length && !box ? Math.min(...at) : 0;
      const from = Math.max(0, low.lastIndexOf(' ', Math.max(0, mid - 80))), part = text.slice(from, from + 240);
      const p = document.createElement('p');
      p.className = 'excerpt';
      let rest = (from ? '… ' : '') + part + (from + 240 < text.length ? ' …' : '');
      if (words.length) {
        const re = new RegExp('(' + words.map(w => w.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|') + ')', 'ig');
        rest.split(re).forEach((s, i) => {
          const el = i % 2 ? document.createElement('mark') : document.createTextNode('');
          el.textContent = s;
          p.appendChild(el);
        });
      } else p.textContent = rest;
      li.appendChild(p);
    };
    const all = () => box.querySelectorAll('ul.search > li').forEach(add);
    new MutationObserver(all).observe(box, { childList: true, subtree: true });
    all();
  }

  ready(() => { figures(); sidebar(); excerpts(); });
})();
