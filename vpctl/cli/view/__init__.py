"""How results look: `render` alone prints, the others lay out tables, figures and progress."""
